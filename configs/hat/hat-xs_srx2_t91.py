# 2 groups of 2 blocks of 32 channels in windows of 8, x2, from random weights: a run of some minutes on a
# CPU. It takes as long as edsr-s_srx2_t91.py, which makes four times as many steps meanwhile.
_base_ = [
    "../_base_/datasets/t91_sr.py",
    "../_base_/schedules/adam_16e.py",
    "../_base_/runtimes/restoration.py",
]

max_epochs = 4
model = dict(
    type="ImageRestorer",
    network=dict(
        type="HAT",
        arch=dict(
            embed_dims=32,
            depths=(2, 2),
            num_heads=(4, 4),
            compress_ratio=4,
            squeeze_factor=8,
        ),
        scale=2,
        window_size=8,
        drop_path_rate=0.0,
    ),
    loss="l1",
)
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = dict(T_max=max_epochs)
