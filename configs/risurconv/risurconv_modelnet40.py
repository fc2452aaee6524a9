# RISurConv on ModelNet40, as published: 10,000-point files sampled once to 1024 by farthest point sampling
# (`tools/prepare_dataset.py modelnet40`), then per item to the unit sphere; no rotation.
_base_ = "../_base_/runtimes/default.py"

data_file = "data/modelnet40.h5"

model = dict(
    type="PointCloudClassifier",
    network=dict(type="RISurConvClassifier", num_classes=40, width=2),
)

train_pipeline = [
    dict(type="NormalizeUnitSphere"),
    dict(type="RandomPointDropout", max_ratio=0.875),
    dict(type="RandomScale", low=0.8, high=1.25),
    dict(type="RandomShift", max_shift=0.1),
    dict(type="PackPoints"),
]
train_dataloader = dict(
    batch_size=32,
    num_workers=4,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="PointCloudDataset", data_file=data_file, split="train", seed=0, pipeline=train_pipeline
    ),
)
test_dataloader = dict(
    batch_size=32,
    num_workers=4,
    persistent_workers=True,
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

# Published results are those of the best test epoch; here the last epoch counts.
train_cfg = dict(by_epoch=True, max_epochs=450, val_interval=10)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type="Adam", lr=1e-3, betas=(0.9, 0.999), weight_decay=1e-4))
param_scheduler = [dict(type="StepLR", step_size=20, gamma=0.7)]
custom_hooks = [dict(type="SetLearningRateHook", rates={300: 1e-3})]
