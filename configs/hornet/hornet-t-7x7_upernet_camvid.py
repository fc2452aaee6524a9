_base_ = [
    "../_base_/models/upernet_camvid.py",
    "../_base_/datasets/camvid.py",
    "../_base_/schedules/adamw_20k.py",
    "../_base_/runtimes/mmseg.py",
]

model = dict(
    backbone=dict(_delete_=True, type="dense.HorNet", arch="tiny_7x7", drop_path_rate=0.4),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
