# HAT x4 on ImageNet, as published: the first of two runs.
_base_ = [
    "../_base_/datasets/imagenet_srx4.py",
    "_base_/schedule_pretrain.py",
    "../_base_/runtimes/restoration.py",
]

model = dict(type="ImageRestorer", network=dict(type="HAT", arch="hat", scale=4), loss="l1")
