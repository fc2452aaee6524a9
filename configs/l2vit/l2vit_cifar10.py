# An L2ViT of two stages, 64 and 128 wide, from random weights on photographs of 32 pixels: maps of 8 x 8 and
# 4 x 4, windows of 4. For CPUs.
_base_ = "../_base_/recipes/cifar10_photos.py"

model = dict(
    backbone=dict(
        type="L2ViT",
        arch=dict(embed_dims=(64, 128), depths=(2, 2), num_heads=(2, 4), window_size=4),
        drop_path_rate=0.1,
    ),
)
