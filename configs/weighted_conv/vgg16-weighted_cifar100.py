# VGG16 with weighted convolutions. Another density: --cfg-options "model.backbone.density.3=[0.9]"
_base_ = "vgg16_cifar100.py"

model = dict(backbone=dict(density={"3": [0.7]}))
