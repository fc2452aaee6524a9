_base_ = [
    "../_base_/models/fpn_camvid.py",
    "../_base_/datasets/camvid.py",
    "../_base_/schedules/adamw_20k_fpn.py",
    "../_base_/runtimes/mmseg.py",
]

model = dict(
    backbone=dict(_delete_=True, type="dense.ELAResNet", arch="resnet18_b"),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
