# A small HaloNet from random weights on photographs of 32 pixels, enlarged to 64: maps of 16 x 16 to 2 x 2,
# blocks of 4 x 4 pixels in windows of 6 x 6. For CPUs.
_base_ = "../_base_/recipes/cifar10_photos.py"

scale = (64, 64)
max_epochs = 2

model = dict(
    backbone=dict(
        type="HaloNet",
        arch=dict(
            embed_dims=(64, 128, 128, 256),
            widths=(32, 64, 64, 128),
            depths=(1, 1, 1, 1),
            num_heads=(4, 4, 4, 4),
            value_ratio=1.0,
            block_size=4,
            halo_size=1,
            conv_blocks=((), (), (), ()),
            stem="conv",
            act="relu",
            final_dims=0,
        ),
    ),
)
