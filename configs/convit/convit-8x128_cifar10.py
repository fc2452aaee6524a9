# A ConViT of 8 blocks, 128 wide, from random weights on photographs of 32 pixels: 8 x 8 tokens. For CPUs.
_base_ = "../_base_/recipes/cifar10_photos.py"

model = dict(
    backbone=dict(
        type="ConViT",
        arch=dict(embed_dims=128, depth=8, num_heads=4, patch_size=4, img_size=32, local_up_to_layer=6),
        drop_path_rate=0.1,
    ),
)

optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys=dict(
            cls_token=dict(decay_mult=0.0), gating_param=dict(decay_mult=0.0), pos_embed=dict(decay_mult=0.0)
        )
    )
)
