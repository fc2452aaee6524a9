# The same network, which drops tokens in three blocks: 64, 53, 43 and 33 of them.
_base_ = "dependency-vit-8x128_cifar10.py"

model = dict(backbone=dict(arch=dict(prune_blocks=(1, 3, 5))))
