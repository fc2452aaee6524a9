# The network of hat-xs_srx2_t91.py, x4, from random weights; as long a run as edsr-s_srx4_t91.py.
_base_ = [
    "../_base_/datasets/t91_srx4.py",
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
        scale=4,
        window_size=8,
        drop_path_rate=0.0,
    ),
    loss="l1",
)
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = dict(T_max=max_epochs)
