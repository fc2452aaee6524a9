# UPerNet for CamVid's classes; a config adds its backbone and the channels of its maps. Published weights,
# converted:
# --cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE \
#     model.backbone.init_cfg.prefix=backbone.
_base_ = "mmseg::_base_/models/upernet_swin.py"

model = dict(
    data_preprocessor=dict(size=(352, 480)),
    decode_head=dict(num_classes=11, loss_decode=dict(avg_non_ignore=True)),
    auxiliary_head=dict(num_classes=11, loss_decode=dict(avg_non_ignore=True)),
)
