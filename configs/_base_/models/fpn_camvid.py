# Semantic FPN for CamVid's classes; a config adds its backbone and the channels of its maps. For published
# weights see upernet_camvid.py.
_base_ = "mmseg::_base_/models/fpn_r50.py"

model = dict(
    pretrained=None,
    data_preprocessor=dict(size=(352, 480)),
    decode_head=dict(num_classes=11, loss_decode=dict(avg_non_ignore=True)),
)
