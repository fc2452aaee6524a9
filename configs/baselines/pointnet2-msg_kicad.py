# PointNet++ with multi-scale grouping; published: 512 and 128 centres, 16 to 128 neighbours, double widths.
_base_ = [
    "../_base_/datasets/kicad_z.py",
    "../_base_/schedules/adamw_30e.py",
    "../_base_/runtimes/default.py",
]

model = dict(
    type="PointCloudClassifier",
    network=dict(
        type="PointNet2Classifier",
        num_classes=10,
        arch=dict(
            centres=(128, 32),
            radii=((0.1, 0.2, 0.4), (0.2, 0.4, 0.8)),
            neighbours=((8, 16, 32), (8, 16, 32)),
            channels=(
                ((16, 16, 32), (32, 32, 64), (32, 48, 64)),
                ((32, 32, 64), (64, 64, 128), (64, 64, 128)),
            ),
        ),
        global_channels=(128, 256, 512),
        head_dims=(256, 128),
    ),
    loss=dict(type="CrossEntropyLoss", label_smoothing=0.1),
)
