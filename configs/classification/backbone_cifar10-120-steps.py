# One pass over 192 photographs of 32 pixels a class, 120 steps of 16, and 1,000 others: what
# benchmarks/backbones.py trains every backbone by, each in the place of this one. No weights are kept.
_base_ = ["../_base_/datasets/cifar10_photos.py", "../_base_/runtimes/dense.py"]
scale = (64, 64)
max_iters = 120

model = dict(
    type="ImageClassifier",
    backbone=dict(type="SHViT", arch="s1"),
    num_classes=10,
    label_smoothing=0.1,
)
train_dataloader = dict(batch_size=16, dataset=dict(fraction=0.096))
test_dataloader = dict(batch_size=50, dataset=dict(fraction=0.25))
val_dataloader = test_dataloader
train_cfg = dict(type="IterBasedTrainLoop", max_iters=max_iters, val_interval=max_iters)
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=20),
    dict(
        type="CosineAnnealingLR",
        by_epoch=False,
        begin=20,
        end=max(max_iters, 21),
        T_max=max(max_iters - 20, 1),
    ),
]
default_hooks = dict(checkpoint=dict(interval=-1, save_last=False))
log_processor = dict(by_epoch=False)
log_level = "WARNING"
