# A small Relation-DETR, for CPUs; dino_r18_pennfudan.py is MMDetection's DINO of the same size and schedule.
_base_ = "dino_r18_pennfudan.py"
custom_imports = dict(imports=["dense.detection"], allow_failed_imports=False)

model = dict(
    type="dense.RelationDETR",
    hybrid_queries=75,
    decoder=dict(relation_encoder=dict(embed_dims=16)),
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
