# A plain ViT (DeiT) of the depth, width and training of dhvt-8x128_cifar10.py, to compare with.
_base_ = [
    "../_base_/models/deit-xs.py",
    "../_base_/datasets/cifar10_photos.py",
    "../_base_/schedules/adamw_12e.py",
    "../_base_/runtimes/dense.py",
]

model = dict(
    backbone=dict(arch=dict(embed_dims=128, depth=8, num_heads=4), drop_path_rate=0.1), label_smoothing=0.1
)
