# UFC on SPair-71k at 512 x 512. The paper's code is not published: the recipe is chosen here. Batch norms
# keep their statistics.
_base_ = ["../_base_/datasets/spair-71k.py", "../_base_/runtimes/matching.py"]

model = dict(
    type="DenseMatcher",
    network=dict(
        type="UFC",
        backbone=dict(
            type="mmdet.ResNet",
            depth=101,
            out_indices=(1, 2, 3),
            init_cfg=dict(type="Pretrained", checkpoint="checkpoints/resnet101-63fe2227.pth"),
        ),
    ),
)

train_dataloader = dict(
    batch_size=8,
    dataset=dict(
        seed=2021,
        pipeline=[
            dict(type="LoadPair"),
            dict(type="RandomPhotometric", prob=0.2),
            dict(type="ResizePair", size=512, crop_prob=0.5),
            dict(type="PackPair"),
        ],
    ),
)
test_pipeline = [dict(type="LoadPair"), dict(type="ResizePair", size=512), dict(type="PackPair")]
val_dataloader = dict(batch_size=8, dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(batch_size=8, dataset=dict(pipeline=test_pipeline))

train_cfg = dict(by_epoch=True, max_epochs=50, val_interval=1)
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=1e-4, weight_decay=0.05),
    paramwise_cfg=dict(custom_keys={"backbone": dict(lr_mult=0.01)}),
)
param_scheduler = dict(type="CosineAnnealingLR", T_max=50, convert_to_iter_based=True)
randomness = dict(seed=2021)
default_hooks = dict(
    logger=dict(interval=50), checkpoint=dict(save_best="pck/0.1", rule="greater", max_keep_ckpts=2)
)
