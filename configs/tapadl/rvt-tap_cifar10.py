# A small RVT with token-aware average pooling (TAP) on photographs of 32 pixels, enlarged to 96: 6 x 6
# tokens.
_base_ = [
    "../_base_/datasets/cifar10_photos.py",
    "../_base_/schedules/adamw_12e.py",
    "../_base_/runtimes/dense.py",
]

scale = (96, 96)
max_epochs = 2

model = dict(
    type="ImageClassifier",
    backbone=dict(
        type="RVT",
        arch=dict(embed_dims=(64,), depths=(4,), num_heads=(2,), num_masked=0, mlp_ratio=4.0),
        drop_path_rate=0.0,
    ),
    num_classes=10,
    label_smoothing=0.1,
)
