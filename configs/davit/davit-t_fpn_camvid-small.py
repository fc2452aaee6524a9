_base_ = "../_base_/camvid-small.py"

model = dict(
    backbone=dict(type="dense.DaViT", arch="tiny", drop_path_rate=0.1),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
