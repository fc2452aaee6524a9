# The smallest S2AFormer on photographs of 32 pixels, enlarged to 64: maps of 16 to 2 pixels a side.
_base_ = [
    "../_base_/datasets/cifar10_photos.py",
    "../_base_/schedules/adamw_12e.py",
    "../_base_/runtimes/dense.py",
]

scale = (64, 64)
model = dict(
    type="ImageClassifier",
    backbone=dict(type="S2AFormer", arch="mini"),
    num_classes=10,
    label_smoothing=0.1,
)
