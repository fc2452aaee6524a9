# A small AFFNet from random weights on photographs of 32 pixels, enlarged to 64: filters of 16 x 16 to 4 x 4
# frequencies, for the last stage keeps the size of its maps. For CPUs.
_base_ = [
    "../_base_/datasets/cifar10_photos.py",
    "../_base_/schedules/adamw_12e.py",
    "../_base_/runtimes/dense.py",
]

scale = (64, 64)
max_epochs = 2

model = dict(
    type="ImageClassifier",
    backbone=dict(
        type="AFFNet",
        arch=dict(
            embed_dims=(16, 32, 64, 96, 128),
            depths=(1, 1, 1, 1, 1),
            expand_ratio=2,
            mlp_ratio=2,
            fuse=(True, True, True),
            stem_dims=16,
        ),
        output_stride=16,
    ),
    num_classes=10,
    label_smoothing=0.1,
)
