# A small LSNet from random weights on photographs of 32 pixels, enlarged to 96: maps of 12 x 12 to 2 x 2. For
# CPUs.
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
        type="LSNet",
        arch=dict(embed_dims=(32, 64, 128, 192), depths=(1, 2, 4, 2), num_heads=4),
        resolution=2,
    ),
    num_classes=10,
    label_smoothing=0.1,
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(attention_biases=dict(decay_mult=0.0))))
