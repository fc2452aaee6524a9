# Adam with a cosine. The last epoch counts: nothing is chosen on the test images. Who changes max_epochs must
# also change val_interval and T_max.
max_epochs = 16
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=max_epochs)
optim_wrapper = dict(optimizer=dict(type="Adam", lr=5e-4, betas=(0.9, 0.99)))
param_scheduler = dict(type="CosineAnnealingLR", T_max=max_epochs, eta_min=1e-6, convert_to_iter_based=True)
