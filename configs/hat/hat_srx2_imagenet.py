# HAT x2 on ImageNet, as published: the first of two runs.
_base_ = [
    "../_base_/datasets/imagenet_sr.py",
    "_base_/schedule_pretrain.py",
    "../_base_/runtimes/restoration.py",
]

model = dict(type="ImageRestorer", network=dict(type="HAT", arch="hat", scale=2), loss="l1")
