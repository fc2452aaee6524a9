# fpn_camvid.py for backbones of tokens, whose maps have one stride: they become a pyramid of strides 4 to 32.
# A config adds its backbone and the width of its tokens. Tests pad images to whole patches of 16 pixels.
_base_ = "fpn_camvid.py"

model = dict(
    data_preprocessor=dict(test_cfg=dict(size_divisor=16)),
    neck=dict(_delete_=True, type="Feature2Pyramid", embed_dim=192, rescales=[4, 2, 1, 0.5]),
    decode_head=dict(in_channels=[192, 192, 192, 192]),
)
