# ResNet-18 for CIFAR, plain convolutions: the twin of resnet18-weighted_cifar100.py.
_base_ = "vgg16_cifar100.py"

model = dict(backbone=dict(_delete_=True, type="ResNetCifar", arch="18"))
