# A DHVT of 8 blocks, 128 wide, from random weights on photographs of 32 pixels: 8 x 8 tokens. For CPUs.
_base_ = "../_base_/recipes/cifar10_photos.py"

model = dict(
    backbone=dict(
        type="DHVT",
        arch=dict(embed_dims=128, depth=8, num_heads=4, patch_size=4, img_size=32, num_classes=10),
        drop_path_rate=0.1,
    ),
)
