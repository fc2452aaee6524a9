# MMSegmentation's ResNet-18, a baseline (README.md beside this file).
_base_ = [
    "../_base_/models/fpn_camvid-small.py",
    "../_base_/datasets/camvid-small.py",
    "../_base_/schedules/adamw_800.py",
    "../_base_/runtimes/mmseg-short.py",
]

model = dict(
    backbone=dict(type="ResNet", depth=18, norm_cfg=dict(type="BN")),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
