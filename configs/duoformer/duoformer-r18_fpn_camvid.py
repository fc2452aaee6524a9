# Tokens of all four maps of a ResNet-18 after scale attention, the coarsest after patch attention.
_base_ = [
    "../_base_/models/fpn_camvid.py",
    "../_base_/datasets/camvid.py",
    "../_base_/schedules/adamw_20k_fpn.py",
    "../_base_/runtimes/mmseg.py",
]

model = dict(
    backbone=dict(
        _delete_=True,
        type="dense.DuoFormer",
        arch=dict(
            backbone="18",
            num_scales=4,
            scale_token="random",
            embed_dims=192,
            depth=4,
            num_heads=3,
            mlp_ratio=4.0,
            img_size=352,
            design="duoformer",
        ),
        patch_residual=True,
    ),
    neck=dict(in_channels=[192, 192, 192, 192]),
)
