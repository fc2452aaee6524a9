_base_ = [
    "../_base_/models/fpn_camvid.py",
    "../_base_/datasets/camvid.py",
    "../_base_/schedules/adamw_20k_fpn.py",
    "../_base_/runtimes/mmseg.py",
]

# the last two maps hold the context, 84 channels, behind their own
model = dict(
    backbone=dict(_delete_=True, type="dense.OverLoCK", arch="xt", drop_path_rate=0.1),
    neck=dict(in_channels=[56, 112, 340, 420]),
)
