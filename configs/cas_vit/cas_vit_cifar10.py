# A small CAS-ViT from random weights on photographs of 32 pixels, enlarged to 64: maps of 16 x 16 to 2 x 2.
# For CPUs.
_base_ = [
    "../_base_/datasets/cifar10_photos.py",
    "../_base_/schedules/adamw_12e.py",
    "../_base_/runtimes/dense.py",
]

scale = (64, 64)
max_epochs = 2

model = dict(
    type="ImageClassifier",
    backbone=dict(type="CASViT", arch=dict(embed_dims=(32, 48, 96, 192), depths=(1, 1, 2, 1))),
    num_classes=10,
    label_smoothing=0.1,
)
