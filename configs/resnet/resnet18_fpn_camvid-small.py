# MMSegmentation's ResNet-18, the baseline of tools/compare_segmentors.py.
_base_ = "../_base_/camvid-small.py"

model = dict(
    backbone=dict(type="ResNet", depth=18, norm_cfg=dict(type="BN")),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
