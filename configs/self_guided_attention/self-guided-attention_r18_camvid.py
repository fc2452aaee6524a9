# The head of self-guided attention behind a small backbone, on CamVid.
_base_ = [
    "../_base_/datasets/camvid.py",
    "../_base_/schedules/adamw_20k.py",
    "../_base_/runtimes/mmseg.py",
]

model = dict(
    type="dense.SelfGuidedAttention",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(352, 480),
    ),
    backbone=dict(type="ResNet", depth=18, norm_cfg=dict(type="BN")),
    decode_head=dict(
        type="dense.SelfGuidedHead",
        in_channels=[64, 128, 256, 512],
        num_classes=11,
        loss_decode=dict(type="CrossEntropyLoss", avg_non_ignore=True),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
