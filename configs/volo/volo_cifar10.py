# A small VOLO from random weights on photographs of 32 pixels, enlarged to 96: maps of 12 x 12 and of 6 x 6.
# Tokens have the label of their image, and boxes are mixed between images. For CPUs.
_base_ = "../_base_/recipes/cifar10_photos.py"

scale = (96, 96)
max_epochs = 2

model = dict(
    backbone=dict(
        type="VOLO",
        arch=dict(
            embed_dims=(64, 128, 128, 128),
            depths=(2, 1, 1, 1),
            num_heads=(2, 4, 4, 4),
            mlp_ratio=2.0,
            stem_dims=16,
            class_depth=1,
            img_size=96,
        ),
    ),
)
