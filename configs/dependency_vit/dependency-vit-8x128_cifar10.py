# A DependencyViT of 8 blocks, 128 wide, from random weights on photographs of 32 pixels: 8 x 8 tokens.
_base_ = "../_base_/recipes/cifar10_photos.py"

model = dict(
    backbone=dict(
        type="DependencyViT",
        arch=dict(
            embed_dims=128,
            depth=8,
            num_heads=8,
            patch_size=4,
            img_size=32,
            prune_blocks=(),
            prune_ratio=0.16,
        ),
        drop_path_rate=0.1,
    ),
)

optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(pos_embed=dict(decay_mult=0.0))))
