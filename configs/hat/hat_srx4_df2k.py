# HAT x4 on DF2K from the weights of x2, as published; what x2 has not starts at random.
_base_ = [
    "../_base_/datasets/df2k_srx4.py",
    "_base_/schedule_finetune.py",
    "../_base_/runtimes/restoration.py",
]

model = dict(
    type="ImageRestorer",
    network=dict(type="HAT", arch="hat", scale=4),
    loss="l1",
    init_cfg=dict(type="Pretrained", checkpoint="work_dirs/hat_srx2_df2k/epoch_100.pth"),
)
optim_wrapper = dict(optimizer=dict(lr=1e-4))
