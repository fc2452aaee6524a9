_base_ = [
    "../_base_/models/fpn_camvid-small.py",
    "../_base_/datasets/camvid-small.py",
    "../_base_/schedules/adamw_800.py",
    "../_base_/runtimes/mmseg-short.py",
]

model = dict(
    backbone=dict(type="dense.DaViT", arch="tiny", drop_path_rate=0.1),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
