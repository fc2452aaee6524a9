# Adam for 100 epochs with a cosine; the last one counts.
train_cfg = dict(by_epoch=True, max_epochs=100, val_interval=10)
optim_wrapper = dict(optimizer=dict(type="Adam", lr=1e-3))
param_scheduler = dict(type="CosineAnnealingLR", T_max=100, eta_min=1e-6, convert_to_iter_based=True)
