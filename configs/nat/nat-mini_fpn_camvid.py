_base_ = [
    "../_base_/models/fpn_camvid.py",
    "../_base_/datasets/camvid.py",
    "../_base_/schedules/adamw_20k_fpn.py",
    "../_base_/runtimes/mmseg.py",
]

model = dict(
    backbone=dict(_delete_=True, type="dense.NAT", arch="mini", drop_path_rate=0.2, small_input="pad"),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
