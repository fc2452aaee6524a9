# A small FFNet from random weights on photographs of 32 pixels, enlarged to 64: maps of 16 x 16 to 2 x 2. For
# CPUs.
_base_ = "../_base_/recipes/cifar10_photos.py"

scale = (64, 64)
max_epochs = 2

model = dict(
    backbone=dict(
        type="FFNet",
        arch=dict(
            embed_dims=(40, 80, 160, 320),
            depths=(1, 1, 2, 1),
            kernel_sizes=(3, 3, 3, 3),
            token_kernel_sizes=((3, 3), (3, 3), (7, 7), (7, 7)),
            mlp_ratios=(3, 3, 3, 3),
            stem_dims=32,
            layer_scale=0.0,
        ),
    ),
)
