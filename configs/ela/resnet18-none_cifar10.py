# ResNet-18 for pictures of 32 pixels, a quarter as wide as usual, on photographs, without attention: what
# resnet18-se_cifar10.py and resnet18-ela_cifar10.py are compared to. For CPUs, from random weights.
_base_ = [
    "../_base_/datasets/cifar10_photos.py",
    "../_base_/schedules/adamw_12e.py",
    "../_base_/runtimes/dense.py",
]

model = dict(
    type="ImageClassifier",
    backbone=dict(type="ResNetCifar", arch=dict(embed_dims=(16, 32, 64, 128), depths=(2, 2, 2, 2))),
    num_classes=10,
    label_smoothing=0.1,
)
