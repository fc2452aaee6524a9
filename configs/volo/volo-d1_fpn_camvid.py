_base_ = [
    "../_base_/models/fpn_camvid.py",
    "../_base_/datasets/camvid.py",
    "../_base_/schedules/adamw_20k_fpn.py",
    "../_base_/runtimes/mmseg.py",
]

# strides 8 and 16
model = dict(
    backbone=dict(_delete_=True, type="dense.VOLO", arch="d1", out_indices=(0, 3), drop_path_rate=0.1),
    neck=dict(in_channels=[192, 384], num_outs=2),
    decode_head=dict(in_channels=[256, 256], in_index=[0, 1], feature_strides=[8, 16]),
)
