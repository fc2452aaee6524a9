# HAT x2 on DF2K after ImageNet, as published.
_base_ = [
    "../_base_/datasets/df2k_sr.py",
    "_base_/schedule_finetune.py",
    "../_base_/runtimes/restoration.py",
]

model = dict(
    type="ImageRestorer",
    network=dict(type="HAT", arch="hat", scale=2),
    loss="l1",
    init_cfg=dict(type="Pretrained", checkpoint="work_dirs/hat_srx2_imagenet/epoch_160.pth"),
)
