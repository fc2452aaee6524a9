# The same network without token-aware average pooling.
_base_ = "rvt-tap_cifar10.py"

model = dict(backbone=dict(num_scales=None))
