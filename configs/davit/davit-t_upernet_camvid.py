_base_ = [
    "../_base_/models/upernet_camvid.py",
    "../_base_/datasets/camvid.py",
    "../_base_/schedules/adamw_20k.py",
    "../_base_/runtimes/mmseg.py",
]

model = dict(backbone=dict(_delete_=True, type="dense.DaViT", arch="tiny", drop_path_rate=0.3))
