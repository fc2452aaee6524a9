# A plain ViT (DeiT) of the same depth, width and training, to compare with.
_base_ = "dhvt-8x128_cifar10.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="ViT",
        arch=dict(
            embed_dims=128,
            depth=8,
            num_heads=4,
            patch_size=4,
            img_size=32,
            mlp="mlp",
            layer_scale_init=0.0,
            num_registers=0,
            distillation=False,
            antialias=True,
            scale_offset=0.0,
        ),
        drop_path_rate=0.1,
    )
)
