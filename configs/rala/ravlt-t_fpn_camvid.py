_base_ = "../_base_/fpn_camvid.py"

model = dict(
    backbone=dict(_delete_=True, type="dense.RAVLT", arch="tiny", drop_path_rate=0.1),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
