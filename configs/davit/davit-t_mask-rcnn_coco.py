# Mask R-CNN on COCO, the published 1x schedule: 12 epochs of 16 images a step, 8 GPUs with 2 each. The 3x
# schedule has 36 epochs, steps at 27 and 33, images resized at random, and drop_path_rate 0.2.
_base_ = [
    "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
    "mmdet::_base_/datasets/coco_instance.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "mmdet::_base_/default_runtime.py",
]
custom_imports = dict(imports=["dense"], allow_failed_imports=False)

model = dict(
    backbone=dict(
        _delete_=True,
        type="dense.DaViT",
        arch="tiny",
        drop_path_rate=0.1,
        # the ImageNet weights, converted by tools/convert_checkpoint.py
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/davit_tiny.pth", prefix="backbone."),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05)
)
