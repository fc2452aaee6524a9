# Mutual nearest neighbours of the features that ufc-tiny_warps_pf-willow.py has learnt, with no checkpoint of
# its own. With --weights random --cfg-options model.network.backbone.init_cfg=None the features are random.
_base_ = [
    "../_base_/models/resnet18-half.py",
    "../_base_/datasets/warps_pf-willow.py",
    "../_base_/schedules/adamw_12e.py",
    "../_base_/runtimes/matching.py",
]

checkpoint = "work_dirs/ufc-tiny_warps_pf-willow/epoch_12.pth"

model = dict(
    type="DenseMatcher",
    network=dict(
        type="MutualNearestNeighbours",
        backbone=dict(
            init_cfg=dict(type="Pretrained", checkpoint=checkpoint, prefix="network.backbone."),
            **_base_.backbone,
        ),
    ),
)
