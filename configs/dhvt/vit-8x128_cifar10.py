# A plain ViT (DeiT) of the depth, width and training of dhvt-8x128_cifar10.py, to compare with.
_base_ = "../_base_/recipes/cifar10_photos_deit-xs.py"

model = dict(backbone=dict(arch=dict(embed_dims=128, depth=8, num_heads=4), drop_path_rate=0.1))
