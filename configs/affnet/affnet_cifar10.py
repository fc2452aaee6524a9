# A small AFFNet from random weights on photographs of 32 pixels, enlarged to 64: filters of 16 x 16 to 4 x 4
# frequencies, for the last stage keeps the size of its maps. For CPUs.
_base_ = "../_base_/recipes/cifar10_photos.py"

scale = (64, 64)
max_epochs = 2

model = dict(
    backbone=dict(
        type="AFFNet",
        arch=dict(
            embed_dims=(16, 32, 64, 96, 128),
            depths=(1, 1, 1, 1, 1),
            expand_ratio=2,
            mlp_ratio=2,
            fuse=(True, True, True),
            stem_dims=16,
        ),
        output_stride=16,
    ),
)
