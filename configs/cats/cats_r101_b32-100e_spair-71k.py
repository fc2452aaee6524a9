# The published recipe of CATs on SPair-71k, its backbone tuned, too (--cfg-options model.network.frozen=True
# keeps it). Batch norms keep their statistics.
_base_ = ["../_base_/datasets/spair-71k.py", "../_base_/runtimes/matching.py"]

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

train_dataloader = dict(dataset=dict(seed=2021))

train_cfg = dict(by_epoch=True, max_epochs=100, val_interval=1)
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=3e-5, weight_decay=0.05),
    paramwise_cfg=dict(custom_keys={"backbone": dict(lr_mult=0.1)}),
)
param_scheduler = dict(type="MultiStepLR", milestones=[70, 80, 90], gamma=0.5)
randomness = dict(seed=2021)
default_hooks = dict(
    logger=dict(interval=50), checkpoint=dict(save_best="pck/0.1", rule="greater", max_keep_ckpts=2)
)
