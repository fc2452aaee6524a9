# RIConv++ with the centres, neighbours and channels of RISurConv-s.
_base_ = [
    "../_base_/datasets/kicad_z.py",
    "../_base_/schedules/adamw_30e.py",
    "../_base_/runtimes/default.py",
]

model = dict(
    type="PointCloudClassifier",
    network=dict(
        type="RIConv2Classifier",
        num_classes=10,
        centres=(256, 128, 64, 32),
        neighbours=(8, 16, 16, 32),
        channels=(32, 64, 128, 256, 256),
        embed_channels=(16, 32),
        head_dims=(128,),
    ),
    loss=dict(type="CrossEntropyLoss", label_smoothing=0.1),
)
