# The published recipe of CATs on SPair-71k, its backbone tuned, too (--cfg-options model.network.frozen=True
# keeps it). Batch norms keep their statistics. data_root has PairAnnotation and JPEGImages.
_base_ = "../_base_/default_runtime.py"

default_scope = "dense"
data_root = "data/SPair-71k"

model = dict(
    type="DenseMatcher",
    network=dict(
        type="CATs",
        backbone=dict(
            type="mmdet.ResNet",
            depth=101,
            init_cfg=dict(type="Pretrained", checkpoint="checkpoints/resnet101-63fe2227.pth"),
        ),
        frozen=False,
    ),
)

train_dataloader = dict(
    batch_size=32,
    num_workers=8,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="SPair71k",
        data_root=data_root,
        split="trn",
        seed=2021,
        pipeline=[
            dict(type="LoadPair"),
            dict(type="RandomPhotometric", prob=0.2),
            dict(type="ResizePair", size=256, crop_prob=0.5),
            dict(type="PackPair"),
        ],
    ),
)
test_dataloader = dict(
    batch_size=32,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="SPair71k",
        data_root=data_root,
        split="test",
        test_mode=True,
        pipeline=[dict(type="LoadPair"), dict(type="ResizePair", size=256), dict(type="PackPair")],
    ),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="SPair71k",
        data_root=data_root,
        split="val",
        test_mode=True,
        pipeline=[dict(type="LoadPair"), dict(type="ResizePair", size=256), dict(type="PackPair")],
    ),
)
val_evaluator = dict(type="PCK", alphas=(0.05, 0.1, 0.15))
test_evaluator = dict(type="PCK", alphas=(0.05, 0.1, 0.15), classwise=True)

train_cfg = dict(by_epoch=True, max_epochs=100, val_interval=1)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=3e-5, weight_decay=0.05),
    paramwise_cfg=dict(custom_keys={"backbone": dict(lr_mult=0.1)}),
)
param_scheduler = dict(type="MultiStepLR", milestones=[70, 80, 90], gamma=0.5)
randomness = dict(seed=2021)
default_hooks = dict(
    logger=dict(interval=50), checkpoint=dict(save_best="pck/0.1", rule="greater", max_keep_ckpts=2)
)
visualizer = dict(type="MatchVisualizer")
