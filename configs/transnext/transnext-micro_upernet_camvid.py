_base_ = [
    "../_base_/models/upernet_camvid.py",
    "../_base_/datasets/camvid.py",
    "../_base_/schedules/adamw_20k.py",
    "../_base_/runtimes/mmseg.py",
]

model = dict(
    backbone=dict(_delete_=True, type="dense.TransNeXt", arch="micro", drop_path_rate=0.3),
    decode_head=dict(in_channels=[48, 96, 192, 384]),
    auxiliary_head=dict(in_channels=192),
)
no_decay = dict(decay_mult=0.0)
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys=dict(
            query_embedding=no_decay, relative_pos_bias_local=no_decay, cpb=no_decay, temperature=no_decay
        )
    )
)
