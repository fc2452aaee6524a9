# ResNet-18 with weighted convolutions.
_base_ = "resnet18_cifar100.py"

model = dict(backbone=dict(density={"3": [0.7]}))
