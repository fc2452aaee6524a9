# A small RISurConv for ten classes.
model = dict(
    type="PointCloudClassifier",
    network=dict(
        type="RISurConvClassifier",
        num_classes=10,
        centres=(256, 128, 64, 32),
        neighbours=(8, 16, 16, 32),
        channels=(32, 64, 128, 256, 256),
        embed_channels=32,
        encoder_depth=1,
        encoder_dims=512,
        head_dims=(128,),
    ),
    loss=dict(type="CrossEntropyLoss", label_smoothing=0.1),
)
