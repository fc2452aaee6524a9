# DnCNN of 8 layers of 48 channels, plain, on grey images with noise of sigma 25: a run of some minutes on a
# CPU.
_base_ = [
    "../_base_/datasets/t91_denoise.py",
    "../_base_/schedules/adam_16e.py",
    "../_base_/runtimes/restoration.py",
]

max_epochs = 8
model = dict(
    type="ImageRestorer",
    network=dict(type="DnCNN", depth=8, channels=48, in_channels=1),
    loss="mse",
)
train_dataloader = dict(batch_size=16, dataset=dict(length=8000))
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = dict(T_max=max_epochs)
