# PointNet with half the published widths from 128 channels up, which suits a CPU.
_base_ = [
    "../_base_/datasets/kicad_z.py",
    "../_base_/schedules/adamw_30e.py",
    "../_base_/runtimes/default.py",
]

model = dict(
    type="PointCloudClassifier",
    network=dict(
        type="PointNetClassifier",
        num_classes=10,
        global_channels=(64, 128, 512),
        transform_channels=(64, 128, 512),
        transform_hidden=(256, 128),
        head_dims=(256, 128),
    ),
    loss=dict(type="CrossEntropyLoss", label_smoothing=0.1),
)
