# Strides 8 to 64. As in the published dense networks, biases are for a last map of 14 x 14.
_base_ = [
    "../_base_/models/fpn_camvid.py",
    "../_base_/datasets/camvid.py",
    "../_base_/schedules/adamw_20k_fpn.py",
    "../_base_/runtimes/mmseg.py",
]

model = dict(
    backbone=dict(_delete_=True, type="dense.LSNet", arch="t", resolution=14),
    neck=dict(in_channels=[64, 128, 256, 384]),
    decode_head=dict(feature_strides=[8, 16, 32, 64]),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(attention_biases=dict(decay_mult=0.0))))
