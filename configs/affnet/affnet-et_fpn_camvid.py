_base_ = [
    "../_base_/models/fpn_camvid.py",
    "../_base_/datasets/camvid.py",
    "../_base_/schedules/adamw_20k_fpn.py",
    "../_base_/runtimes/mmseg.py",
]

# strides 4 to 32
model = dict(
    backbone=dict(_delete_=True, type="dense.AFFNet", arch="et", out_indices=(1, 2, 3, 4)),
    neck=dict(in_channels=[48, 64, 104, 144]),
)
