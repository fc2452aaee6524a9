# A small RISurConv for the bundled shapes. It trains without rotation: its features do not change under any,
# so training under z or SO(3) gives the same network up to rounding (README.md beside this file).
_base_ = "../_base_/default_runtime.py"

data_file = "{{fileDirname}}/../../data/kicad/kicad.h5"
max_epochs = 30

model = dict(
    type="PointCloudClassifier",
    network=dict(
        type="RISurConvClassifier",
        num_classes=10,
        centres=(256, 128, 64, 32),
        neighbours=(8, 16, 16, 32),
        channels=(32, 64, 128, 256, 256),
        embed_channels=32,
        encoder_depth=1,
        encoder_dims=512,
        head_dims=(128,),
    ),
    loss=dict(type="CrossEntropyLoss", label_smoothing=0.1),
)

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

# The last epoch is what counts; nothing is chosen on the test split.
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=10)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=2e-3, weight_decay=0.01),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.04, begin=0, end=4, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", begin=4, end=max_epochs, T_max=max_epochs - 4, convert_to_iter_based=True),
]
