# Mask R-CNN on COCO: MMDetection's model and data, 36 epochs of 16 images a step, steps at 27 and 33.
# Published runs resize images at random besides.
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
        type="dense.NAT",
        arch="mini",
        drop_path_rate=0.2,
        small_input="pad",  # an image that is long and thin has coarse maps of less than a window
        # the ImageNet weights, converted by tools/convert_checkpoint.py
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/nat_mini.pth", prefix="backbone."),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)

train_cfg = dict(max_epochs=36)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type="MultiStepLR", begin=0, end=36, by_epoch=True, milestones=[27, 33], gamma=0.1),
]
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    # no decay of biases of positions, as published
    paramwise_cfg=dict(norm_decay_mult=0.0, custom_keys={"rpb": dict(decay_mult=0.0)}),
)
