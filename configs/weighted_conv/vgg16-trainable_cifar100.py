# VGG16 whose convolutions learn a density each, by the published recipe for trainable densities: AdamW;
# cosine for the weights; a hundred times their rate, and warm restarts after 10, 20, 40, ... epochs, for the
# densities. Not as published: densities do not decay (optim_wrapper.paramwise_cfg.density.weight_decay=0.01
# makes them).
_base_ = "vgg16_cifar100.py"

max_epochs = 100

model = dict(backbone=dict(density={"3": [0.7]}, trainable_density=True))

train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(
    _delete_=True,
    constructor="DensityConstructor",
    optimizer=dict(type="AdamW", lr=1e-4, weight_decay=1e-2),
    paramwise_cfg=dict(density=dict(lr=1e-2, weight_decay=0.0)),
)
param_scheduler = [
    dict(type="KindCosineAnnealingLR", densities=False, T_max=max_epochs, eta_min=1e-6),
    dict(
        type="KindCosineRestartLR",
        densities=True,
        periods=[10, 20, 40, 80],
        restart_weights=[1, 1, 1, 1],
        eta_min=0,
    ),
]
