# CATs on the features that configs/ufc/ufc-tiny_warps_pf-willow.py has learnt, frozen: those after the last
# block of strides 8 and 16.
_base_ = [
    "../_base_/models/resnet18-half.py",
    "../_base_/datasets/warps_pf-willow.py",
    "../_base_/schedules/adamw_12e.py",
    "../_base_/runtimes/matching.py",
]

checkpoint = "work_dirs/ufc-tiny_warps_pf-willow/epoch_12.pth"
max_epochs = 3

model = dict(
    type="DenseMatcher",
    network=dict(
        type="CATs",
        backbone=dict(
            init_cfg=dict(type="Pretrained", checkpoint=checkpoint, prefix="network.backbone."),
            **_base_.backbone,
        ),
        blocks=(4, 6),
        grid=16,
        proj_dims=32,
        num_heads=6,
    ),
)

train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, begin=0, end=1, convert_to_iter_based=True),
    dict(
        type="CosineAnnealingLR",
        begin=1,
        end=max(max_epochs, 2),
        T_max=max(max_epochs - 1, 1),
        convert_to_iter_based=True,
    ),
]
