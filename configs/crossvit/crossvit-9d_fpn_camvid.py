_base_ = [
    "../_base_/models/fpn_camvid.py",
    "../_base_/datasets/camvid.py",
    "../_base_/schedules/adamw_20k_fpn.py",
    "../_base_/runtimes/mmseg.py",
]

model = dict(
    backbone=dict(
        _delete_=True, type="dense.CrossViT", arch="9_dagger", out_indices=(2,), drop_path_rate=0.1
    ),
    neck=dict(in_channels=[128, 256], num_outs=2),
    decode_head=dict(in_channels=[256, 256], in_index=[0, 1], feature_strides=[11, 16]),
)
