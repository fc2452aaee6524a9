# A small OverLoCK from random weights on photographs of 32 pixels, enlarged to 96: maps of 24 x 24 to 3 x 3.
# The overview has its own loss. For CPUs.
_base_ = "../_base_/recipes/cifar10_photos.py"

scale = (96, 96)
max_epochs = 2

model = dict(
    backbone=dict(
        type="OverLoCK",
        arch=dict(
            embed_dims=(32, 48, 64, 128),
            depths=(1, 1, 1, 1),
            sub_depths=(2, 1),
            num_heads=(2, 4),
            kernel_sizes=(11, 9, 5, 5),
            small_kernel=3,
            mlp_ratios=(3, 2),
        ),
    ),
)
