_base_ = "../_base_/recipes/cifar10_photos.py"

model = dict(
    backbone=dict(
        type="KernelizedViT",
        arch=dict(embed_dims=96, depth=6, num_heads=3, patch_size=4, img_size=32),
    )
)
