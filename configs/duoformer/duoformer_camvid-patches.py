# A small DuoFormer over half a ResNet-18 on patches of street scenes, of 96 pixels: 3 x 3 regions, maps of
# strides 8, 16 and 32. From random weights, so nothing is frozen; patch blocks add to what they are given.
# For CPUs; resnet18_camvid-patches.py is the ResNet alone.
_base_ = "resnet18_camvid-patches.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="DuoFormer",
        arch=dict(
            backbone=dict(embed_dims=(32, 64, 128, 256), depths=(2, 2, 2, 2), expansion=1),
            num_scales=3,
            scale_token="channel",
            embed_dims=96,
            depth=3,
            num_heads=3,
            mlp_ratio=4.0,
            img_size=96,
            design="duoformer",
        ),
        patch_residual=True,
    )
)
