# Squeeze and excitation at the end of every block. The published 16 channels to a hidden one would leave the
# narrow stages one: 4 here.
_base_ = "resnet18-none_cifar10.py"

model = dict(backbone=dict(plugins=[dict(cfg=dict(type="SE", ratio=4), position="after_conv2")]))
