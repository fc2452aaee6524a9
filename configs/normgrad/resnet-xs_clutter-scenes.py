# A small ResNet that learns pictures of ten classes, each pasted into clutter; tested on scenes with two of
# them by where its maps point. For CPUs, from random weights. Another map:
# `--cfg-options model.method=grad_cam`.
_base_ = ["../_base_/schedules/adamw_12e.py", "../_base_/runtimes/dense.py"]

data_root = "data/cifar10_jpeg"
size = (80, 80)
max_epochs = 6

model = dict(
    type="ExplainedClassifier",
    backbone=dict(type="ResNet", arch=dict(embed_dims=(32, 64, 128), depths=(1, 1, 1), expansion=1)),
    num_classes=10,
    label_smoothing=0.1,
    method="norm_grad",
    layer="backbone.stages.1",
)
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, begin=0, end=1, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", begin=1, end=max_epochs, T_max=5, convert_to_iter_based=True),
]
train_dataloader = dict(
    batch_size=128,
    num_workers=0,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="ClutterScenes",
        data_root=data_root,
        split="train",
        fraction=0.5,
        size=size,
        seed=0,
        pipeline=[dict(type="PackImage")],
    ),
)
test_dataloader = dict(
    batch_size=50,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="ClutterScenes",
        data_root=data_root,
        split="test",
        class_split="train",
        fraction=0.15,
        size=size,
        num_objects=2,
        seed=0,
        test_mode=True,
        pipeline=[dict(type="PackScene")],
    ),
)
val_dataloader = test_dataloader
test_evaluator = [dict(type="PointingGame"), dict(type="TopK", topk=(1, 2))]
val_evaluator = test_evaluator
val_cfg = dict()
test_cfg = dict()
