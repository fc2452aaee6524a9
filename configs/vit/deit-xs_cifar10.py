# A plain vision Transformer of 0.7 million parameters on photographs of 32 pixels: 8 x 8 patches of 4.
_base_ = [
    "../_base_/models/deit-xs.py",
    "../_base_/datasets/cifar10_photos.py",
    "../_base_/schedules/adamw_12e.py",
    "../_base_/runtimes/dense.py",
]

model = dict(label_smoothing=0.1)
