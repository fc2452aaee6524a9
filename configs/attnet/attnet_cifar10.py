# A small AttNet from random weights on photographs of 32 pixels, enlarged to 64: maps of 16 x 16 to 2 x 2.
# The inhibition does not decay. For CPUs.
_base_ = [
    "../_base_/datasets/cifar10_photos.py",
    "../_base_/schedules/adamw_12e.py",
    "../_base_/runtimes/dense.py",
]

scale = (64, 64)
max_epochs = 2

model = dict(
    type="ImageClassifier",
    backbone=dict(
        type="AttNet",
        arch=dict(
            embed_dims=(32, 48, 64, 96),
            depths=(1, 1, 2, 1),
            mlp_ratios=(4, 4, 4, 4),
            kernel_sizes=(3, 3, 3, 3),
            layer_scale=False,
            glu_norm=True,
        ),
    ),
    num_classes=10,
    label_smoothing=0.1,
)
optim_wrapper = dict(
    constructor="NoDecayConstructor",
    paramwise_cfg=dict(no_decay_keys=["inhibition"]),
)
