# A small LSNet from random weights on photographs of 32 pixels, enlarged to 96: maps of 12 x 12 to 2 x 2. For
# CPUs.
_base_ = "../_base_/recipes/cifar10_photos.py"

scale = (96, 96)
max_epochs = 2

model = dict(
    backbone=dict(
        type="LSNet",
        arch=dict(embed_dims=(32, 64, 128, 192), depths=(1, 2, 4, 2), num_heads=4),
        resolution=2,
    ),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(attention_biases=dict(decay_mult=0.0))))
