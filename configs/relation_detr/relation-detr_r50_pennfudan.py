# Pedestrians of Penn-Fudan at 256 pixels, with half of the transformer's layers and few queries: for CPUs. It
# starts from random weights, so norms and first layers train, too. From the backbone's weights of ImageNet:
#   --cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE
# The data: python tools/prepare_dataset.py pennfudan --source PennFudanPed --out data/pennfudan
_base_ = "relation-detr_r50_8xb2-12e_coco.py"

model = dict(
    num_queries=100,
    hybrid_queries=150,
    backbone=dict(
        frozen_stages=-1, norm_cfg=dict(type="BN", requires_grad=True), norm_eval=False, init_cfg=None
    ),
    encoder=dict(num_layers=3),
    decoder=dict(num_layers=3),
    bbox_head=dict(num_classes=1),
    dn_cfg=dict(group_cfg=dict(num_dn_queries=50)),
    test_cfg=dict(max_per_img=100),
)

data_root = "data/pennfudan"
metainfo = dict(classes=("person",), palette=[(220, 20, 60)])
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="RandomChoiceResize", scales=[(400, 224), (400, 256), (400, 288)], keep_ratio=True),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(400, 256), keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(
        type="PackDetInputs",
        meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "instances"),
    ),
]
train_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        data_root=data_root,
        ann_file="instances_train.json",
        data_prefix=dict(img="images/"),
        metainfo=metainfo,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        data_root=data_root,
        ann_file="instances_val.json",
        data_prefix=dict(img="images/"),
        metainfo=metainfo,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=None)  # the boxes come with the images, from wherever data_root is
test_evaluator = val_evaluator

max_iters = 2000
train_cfg = dict(_delete_=True, type="IterBasedTrainLoop", max_iters=max_iters, val_interval=500)
optim_wrapper = dict(
    optimizer=dict(lr=2e-4), paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=1.0)))
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type="MultiStepLR", by_epoch=False, begin=0, end=max_iters, milestones=[1600], gamma=0.1),
]
default_hooks = dict(
    logger=dict(interval=10, log_metric_by_epoch=False), checkpoint=dict(by_epoch=False, interval=500)
)
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
