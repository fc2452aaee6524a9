# DGCNN with half the published widths and neighbours.
_base_ = [
    "../_base_/datasets/kicad_z.py",
    "../_base_/schedules/adamw_30e.py",
    "../_base_/runtimes/default.py",
]

model = dict(
    type="PointCloudClassifier",
    network=dict(
        type="DGCNNClassifier",
        num_classes=10,
        k=10,
        channels=(32, 32, 64, 128),
        embed_channels=512,
        head_dims=(256, 128),
    ),
    loss=dict(type="CrossEntropyLoss", label_smoothing=0.1),
)
