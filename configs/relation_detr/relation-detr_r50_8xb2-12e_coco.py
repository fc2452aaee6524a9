# Relation-DETR with a ResNet-50 on COCO, the published 1x schedule: 12 epochs, a tenth of the rate after 10.
_base_ = "mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py"
custom_imports = dict(imports=["dense.detection"], allow_failed_imports=False)

model = dict(
    type="dense.RelationDETR",
    hybrid_queries=1500,
    data_preprocessor=dict(pad_size_divisor=32),
    # torchvision's weights IMAGENET1K_V2: https://download.pytorch.org/models/resnet50-11ad3fa6.pth
    backbone=dict(init_cfg=dict(type="Pretrained", checkpoint="checkpoints/resnet50-11ad3fa6.pth")),
    decoder=dict(relation_encoder=dict(embed_dims=16, temperature=10000.0, scale=100.0)),
    positional_encoding=dict(offset=-0.5, temperature=10000),
    bbox_head=dict(
        type="dense.RelationDETRHead",
        loss_cls=dict(_delete_=True, type="dense.DetachedVarifocalLoss", alpha=0.25, gamma=2.0),
    ),
    train_cfg=dict(
        assigner=dict(
            match_costs=[
                dict(type="FocalLossCost", weight=2.0, eps=1e-6),
                dict(type="BBoxL1Cost", weight=5.0, box_format="xywh"),
                dict(type="IoUCost", iou_mode="giou", weight=2.0),
            ]
        )
    ),
)

optim_wrapper = dict(
    constructor="dense.NoDecayConstructor",
    paramwise_cfg=dict(
        custom_keys=dict(
            backbone=dict(lr_mult=0.1), sampling_offsets=dict(lr_mult=0.1), reference_points=dict(lr_mult=0.1)
        ),
        no_decay_keys=["norm", "bias"],
    ),
)
param_scheduler = [dict(type="MultiStepLR", begin=0, end=12, by_epoch=True, milestones=[10], gamma=0.1)]
