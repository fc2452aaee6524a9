# The bundled shapes of electronic parts, 10 classes; 768 of their points to train, without rotation.
data_file = "{{fileDirname}}/../../../data/kicad/kicad.h5"

train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="PointCloudDataset",
        data_file=data_file,
        split="train",
        seed=0,
        pipeline=[
            dict(type="SamplePoints", num=768),
            dict(type="NormalizeUnitSphere"),
            dict(type="RandomScale", low=0.8, high=1.2),
            dict(type="PackPoints"),
        ],
    ),
)
test_dataloader = dict(
    batch_size=32,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="PointCloudDataset",
        data_file=data_file,
        split="test",
        test_mode=True,
        pipeline=[dict(type="NormalizeUnitSphere"), dict(type="PackPoints")],
    ),
)
val_dataloader = test_dataloader
test_evaluator = dict(type="ClassificationAccuracy")
val_evaluator = test_evaluator
