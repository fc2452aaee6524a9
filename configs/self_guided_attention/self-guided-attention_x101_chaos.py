# Self-guided attention on CHAOS, T1-DUAL in-phase MRI of 20 labelled people: 13 to train, 2 to validate,
# 5 to test. data_root has train, val and test, each with Img and GT, 256 x 256 grey PNGs Subj_3slice_12.png;
# masks have the levels 0, 63, 126, 189 and 252. Differs from the published run: rotated images are
# interpolated, the learning rate halves after 50 epochs without a better validation (published: when the
# epoch is a multiple of the best one plus 50, so at once), and no ImageNet weights are overwritten.
_base_ = "../_base_/runtimes/mmseg.py"
custom_imports = dict(imports=["dense.segmentation"])

data_root = "data/chaos"

model = dict(
    type="dense.SelfGuidedAttention",
    data_preprocessor=dict(
        type="SegDataPreProcessor", mean=[0.0], std=[255.0], pad_val=0, seg_pad_val=255, size=(256, 256)
    ),
    backbone=dict(
        type="ResNeXt",
        depth=101,
        groups=32,
        base_width=8,
        in_channels=1,
        norm_cfg=dict(type="BN"),
        style="pytorch",
    ),
    decode_head=dict(
        type="dense.SelfGuidedHead",
        in_channels=[256, 512, 1024, 2048],
        num_classes=5,
        loss_decode=dict(type="CrossEntropyLoss", avg_non_ignore=True),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)

load = [
    dict(type="LoadImageFromFile", color_type="grayscale"),
    dict(type="LoadAnnotations"),
    dict(type="dense.RoundLabels"),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="dense.SliceDataset",
        data_root=data_root,
        data_prefix=dict(img_path="train/Img", seg_map_path="train/GT"),
        pipeline=[
            *load,
            dict(type="RandomFlip", prob=0.5, direction="vertical"),
            dict(type="RandomFlip", prob=0.5, direction="horizontal"),
            dict(type="RandomRotate", prob=0.5, degree=30.0, pad_val=0, seg_pad_val=0),
            dict(type="PackSegInputs"),
        ],
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="dense.SliceDataset",
        data_root=data_root,
        data_prefix=dict(img_path="val/Img", seg_map_path="val/GT"),
        pipeline=[*load, dict(type="PackSegInputs")],
    ),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="dense.SliceDataset",
        data_root=data_root,
        data_prefix=dict(img_path="test/Img", seg_map_path="test/GT"),
        pipeline=[*load, dict(type="PackSegInputs")],
    ),
)
val_evaluator = dict(type="dense.DiceMetric")
test_evaluator = val_evaluator

train_cfg = dict(by_epoch=True, max_epochs=500, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="Adam", lr=1e-3, betas=(0.9, 0.99)))
param_scheduler = [dict(type="ReduceOnPlateauLR", monitor="dice/3d", rule="greater", factor=0.5, patience=50)]
default_hooks = dict(
    logger=dict(interval=10, log_metric_by_epoch=True),
    checkpoint=dict(by_epoch=True, interval=1, save_best="dice/3d", rule="greater"),
)
log_processor = dict(by_epoch=True, window_size=10)
