# A small DuoFormer over a quarter of a ResNet-18, on photographs of 32 pixels enlarged to 64: 2 x 2 regions,
# maps of strides 8, 16 and 32. For CPUs, from random weights.
_base_ = "../_base_/recipes/cifar10_photos.py"

scale = (64, 64)
max_epochs = 3

model = dict(
    backbone=dict(
        type="DuoFormer",
        arch=dict(
            backbone=dict(embed_dims=(16, 32, 64, 128), depths=(2, 2, 2, 2), expansion=1),
            num_scales=3,
            scale_token="random",
            embed_dims=64,
            depth=2,
            num_heads=2,
            mlp_ratio=4.0,
            img_size=64,
            design="duoformer",
        ),
        patch_residual=True,
    ),
)
