_base_ = [
    "../_base_/models/fpn_camvid.py",
    "../_base_/datasets/camvid.py",
    "../_base_/schedules/adamw_20k_fpn.py",
    "../_base_/runtimes/mmseg.py",
]

model = dict(
    backbone=dict(_delete_=True, type="dense.FFNet", arch="1", drop_path_rate=0.1),
    neck=dict(in_channels=[80, 160, 320, 640]),
)
