# A small SpaRTAN from random weights on photographs of 32 pixels, enlarged to 64: maps of 16 x 16 to 4 x 4.
# What decays not is as published. For CPUs.
_base_ = "../_base_/recipes/cifar10_photos.py"

scale = (64, 64)
max_epochs = 2

model = dict(
    backbone=dict(
        type="SpaRTAN",
        arch=dict(
            embed_dims=(32, 64, 128),
            depths=(1, 2, 1),
            expand_ratios=(4, 2, 2),
            strides=(4, 2, 2),
            dense_stages=1,
        ),
    ),
)

optim_wrapper = dict(
    optimizer=dict(weight_decay=0.03),
    paramwise_cfg=dict(
        flat_decay_mult=0.0,
        custom_keys=dict(norm=dict(decay_mult=0.0), gamma=dict(decay_mult=0.0)),
    ),
)
