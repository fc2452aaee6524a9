# FCOS with bridged key points on COCO: backbone, images and schedule are those of the RetinaNet.
_base_ = "relationnet2-retinanet_x101-dcn_8xb2-ms-20e_coco.py"

model = dict(
    type="FCOS",
    neck=dict(add_extra_convs="on_output"),
    bbox_head=dict(
        _delete_=True,
        type="dense.BVRFCOSHead",
        num_classes=80,
        in_channels=256,
        strides=[8, 16, 32, 64, 128],
        norm_cfg=None,
        norm_on_bbox=True,
        centerness_on_reg=True,
        center_sampling=True,
        center_sample_radius=1.5,
        dcn_on_last_conv=True,
        conv_bias=True,
        loss_bbox=dict(type="GIoULoss", loss_weight=1.0),
        bvr=dict(base_size=(300, 300), keypoint_head=dict(logits_convs=0)),
    ),
)

optim_wrapper = dict(
    paramwise_cfg=dict(bias_lr_mult=2.0, bias_decay_mult=0.0), clip_grad=dict(max_norm=35, norm_type=2)
)
