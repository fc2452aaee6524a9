# 2,000 steps of AdamW for small language models: a warm-up of 100, then a cosine to a tenth of the rate. The
# last step is what counts; nothing is chosen on the text that is held out.
max_iters = 2000
train_cfg = dict(type="IterBasedTrainLoop", max_iters=max_iters, val_interval=500)
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(
        type="CosineAnnealingLR",
        by_epoch=False,
        begin=100,
        end=max(max_iters, 101),
        T_max=max(max_iters - 100, 1),
        eta_min=1e-4,
    ),
]
