# A CrossViT of two stages, 64 and 128 wide, from random weights on photographs of 32 pixels: 11 x 11 and
# 8 x 8 tokens. For CPUs.
_base_ = "../_base_/recipes/cifar10_photos.py"

model = dict(
    backbone=dict(
        type="CrossViT",
        arch=dict(
            embed_dims=(64, 128),
            depths=((1, 3, 0), (1, 3, 0)),
            num_heads=(4, 4),
            mlp_ratios=(4, 4),
            patch_size=(3, 4),
            img_size=(33, 32),
            multi_conv=False,
        ),
        drop_path_rate=0.1,
    ),
)
