# RetinaNet on COCO, MMDetection's 1x schedule: 12 epochs of 16 images a step, 8 GPUs with 2 each. The
# backbone has strides 8 and 16; coarser levels are further convolutions.
_base_ = [
    "mmdet::_base_/models/retinanet_r50_fpn.py",
    "mmdet::_base_/datasets/coco_detection.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "mmdet::_base_/default_runtime.py",
]
custom_imports = dict(imports=["dense"], allow_failed_imports=False)

model = dict(
    backbone=dict(
        _delete_=True,
        type="dense.VOLO",
        arch="d1",
        out_indices=(0, 3),
        drop_path_rate=0.1,
        # the ImageNet weights, converted by tools/convert_checkpoint.py
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/volo_d1.pth", prefix="backbone."),
    ),
    neck=dict(in_channels=[192, 384], start_level=0),
)

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05)
)
