# An InLine-PVT of two stages, 64 and 128 wide, from random weights on photographs of 32 pixels: 8 x 8 and
# 4 x 4 tokens. For CPUs.
_base_ = "../_base_/recipes/cifar10_photos.py"

model = dict(
    backbone=dict(
        type="InLinePVT",
        arch=dict(embed_dims=(64, 128), depths=(2, 2), num_heads=(2, 4), mlp_ratios=(4, 4), img_size=32),
        drop_path_rate=0.1,
    ),
)
