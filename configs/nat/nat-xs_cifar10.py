# A small NAT on photographs of 32 pixels, enlarged to 64: maps of 16 x 16 and 8 x 8, windows of 5.
_base_ = "../_base_/recipes/cifar10_photos.py"

scale = (64, 64)
max_epochs = 4

model = dict(
    backbone=dict(
        type="NAT",
        arch=dict(
            layout="nat",
            embed_dims=(32, 64),
            depths=(2, 2),
            num_heads=(1, 2),
            window_size=5,
            dilations=((1, 3), (1,)),
            mlp_ratio=2.0,
            layer_scale=0.0,
        ),
        drop_path_rate=0.0,
    ),
)
