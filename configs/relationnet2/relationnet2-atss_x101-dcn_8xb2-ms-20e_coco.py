# ATSS with bridged key points on COCO: backbone, images and schedule are those of the RetinaNet.
_base_ = "relationnet2-retinanet_x101-dcn_8xb2-ms-20e_coco.py"

model = dict(
    type="ATSS",
    neck=dict(add_extra_convs="on_output"),
    bbox_head=dict(
        type="dense.BVRATSSHead",
        dcn_on_last_conv=True,
        anchor_generator=dict(
            _delete_=True,
            type="AnchorGenerator",
            ratios=[1.0],
            octave_base_scale=8,
            scales_per_octave=1,
            strides=[8, 16, 32, 64, 128],
        ),
        bbox_coder=dict(target_stds=[0.1, 0.1, 0.2, 0.2]),
        loss_bbox=dict(_delete_=True, type="GIoULoss", loss_weight=2.0),
        bvr=dict(shared_embedding=True),
    ),
    train_cfg=dict(assigner=dict(_delete_=True, type="ATSSAssigner", topk=9)),
)
