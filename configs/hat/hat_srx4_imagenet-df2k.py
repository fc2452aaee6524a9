# HAT x4 on DF2K after ImageNet, as published.
_base_ = [
    "../_base_/datasets/df2k_srx4.py",
    "_base_/schedule_finetune.py",
    "../_base_/runtimes/restoration.py",
]

model = dict(
    type="ImageRestorer",
    network=dict(type="HAT", arch="hat", scale=4),
    loss="l1",
    init_cfg=dict(type="Pretrained", checkpoint="work_dirs/hat_srx4_imagenet/epoch_160.pth"),
)
