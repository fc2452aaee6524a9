# Three maps, the finest of stride 16.
_base_ = [
    "../_base_/models/fpn_camvid-small.py",
    "../_base_/datasets/camvid-small.py",
    "../_base_/schedules/adamw_800.py",
    "../_base_/runtimes/mmseg-short.py",
]

model = dict(
    backbone=dict(type="dense.SHViT", arch="s1"),
    neck=dict(in_channels=[128, 224, 320], num_outs=3),
    decode_head=dict(in_channels=[64, 64, 64], in_index=[0, 1, 2], feature_strides=[16, 32, 64]),
)
