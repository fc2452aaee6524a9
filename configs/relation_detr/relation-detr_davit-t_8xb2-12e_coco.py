# Any backbone of dense does; this one is DaViT-Tiny.
_base_ = "relation-detr_r50_8xb2-12e_coco.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="dense.DaViT",
        arch="tiny",
        out_indices=(1, 2, 3),
        # the ImageNet weights, converted by tools/convert_checkpoint.py
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/davit_tiny.pth", prefix="backbone."),
    ),
    neck=dict(in_channels=[192, 384, 768]),
)
