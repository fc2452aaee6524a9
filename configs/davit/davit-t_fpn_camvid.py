_base_ = "../_base_/fpn_camvid.py"

model = dict(
    backbone=dict(_delete_=True, type="dense.DaViT", arch="tiny", drop_path_rate=0.2),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
