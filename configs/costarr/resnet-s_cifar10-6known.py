# A small ResNet of six known classes of photographs, and COSTARR, fitted at the end of training. For CPUs.
_base_ = [
    "../_base_/datasets/cifar10_photos_open-set.py",
    "../_base_/schedules/adamw_12e.py",
    "../_base_/runtimes/dense.py",
]

max_epochs = 4
model = dict(
    type="OpenSetClassifier",
    backbone=dict(
        type="ResNetCifar",
        arch=dict(embed_dims=(16, 32, 64, 128), depths=(1, 1, 1, 1)),
    ),
    num_classes=6,
    known_score=dict(type="costarr"),
)
custom_hooks = [dict(type="FitOpenSet")]
