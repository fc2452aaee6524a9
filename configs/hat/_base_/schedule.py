# HAT from random weights: 500,000 steps. The averaged weights are those that are tested and saved.
train_cfg = dict(by_epoch=True, max_epochs=100, val_interval=10)
optim_wrapper = dict(optimizer=dict(type="Adam", lr=2e-4, betas=(0.9, 0.99)))
param_scheduler = dict(
    type="MultiStepLR", by_epoch=False, gamma=0.5, milestones=[250_000, 400_000, 450_000, 475_000]
)
custom_hooks = [dict(type="EMAHook", momentum=1e-3)]
