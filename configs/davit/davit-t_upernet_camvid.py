_base_ = "../_base_/upernet_camvid.py"

model = dict(backbone=dict(_delete_=True, type="dense.DaViT", arch="tiny", drop_path_rate=0.3))
