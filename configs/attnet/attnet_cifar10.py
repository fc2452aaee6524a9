# A small AttNet from random weights on photographs of 32 pixels, enlarged to 64: maps of 16 x 16 to 2 x 2.
# The inhibition does not decay. For CPUs.
_base_ = "../_base_/recipes/cifar10_photos.py"

scale = (64, 64)
max_epochs = 2

model = dict(
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
)
optim_wrapper = dict(
    constructor="NoDecayConstructor",
    paramwise_cfg=dict(no_decay_keys=["inhibition"]),
)
