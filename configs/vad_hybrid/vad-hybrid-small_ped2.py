# A slim network at 128 x 128, 1500 steps of one clip: ten minutes on one CPU core. The last step counts.
_base_ = "vad-hybrid_ped2.py"

max_iters = 1500

model = dict(network=dict(arch="small"))
train_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    sampler=dict(_delete_=True, type="InfiniteSampler", shuffle=True),
    dataset=dict(size=128),
)
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(size=128, stride=4))
test_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(size=128))

train_cfg = dict(_delete_=True, type="IterBasedTrainLoop", max_iters=max_iters, val_interval=max_iters // 3)
optim_wrapper = dict(clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(
        type="CosineAnnealingLR",
        by_epoch=False,
        begin=100,
        end=max(max_iters, 101),
        T_max=max(max_iters - 100, 1),
    ),
]
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=max_iters // 3, save_best=None, rule=None),
)
log_processor = dict(by_epoch=False, window_size=50)
