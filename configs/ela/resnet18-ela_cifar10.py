# ELA-B at the end of every block.
_base_ = "resnet18-none_cifar10.py"

model = dict(backbone=dict(plugins=[dict(cfg=dict(type="ELA", variant="B"), position="after_conv2")]))
