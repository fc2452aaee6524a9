# PointNet with half the published widths from 128 channels up, which suits a CPU.
_base_ = "../risurconv/risurconv-s_kicad_z.py"

model = dict(
    network=dict(
        _delete_=True,
        type="PointNetClassifier",
        num_classes=10,
        global_channels=(64, 128, 512),
        transform_channels=(64, 128, 512),
        transform_hidden=(256, 128),
        head_dims=(256, 128),
    )
)
