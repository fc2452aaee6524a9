# ResNet-18 for pictures of 32 pixels, a quarter as wide as usual, on photographs, without attention: what
# resnet18-se_cifar10.py and resnet18-ela_cifar10.py are compared to. For CPUs, from random weights.
_base_ = "../_base_/recipes/cifar10_photos.py"

model = dict(
    backbone=dict(type="ResNetCifar", arch=dict(embed_dims=(16, 32, 64, 128), depths=(2, 2, 2, 2))),
)
