# The encoder of the mosaics' runs, trained first, to name single photographs: 4 x 4 tokens of 8 pixels.
_base_ = "../_base_/recipes/cifar10_photos.py"

max_epochs = 5
model = dict(
    backbone=dict(
        type="DHVT",
        arch=dict(embed_dims=96, depth=4, num_heads=3, patch_size=8, img_size=32, num_classes=10),
        drop_path_rate=0.0,
    ),
)
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, begin=0, end=1, convert_to_iter_based=True),
    dict(
        type="CosineAnnealingLR",
        begin=1,
        end=max(max_epochs, 2),
        T_max=max(max_epochs - 1, 1),
        convert_to_iter_based=True,
    ),
]
