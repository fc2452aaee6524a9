# HAT-L x2 on DF2K after ImageNet.
_base_ = "hat_srx2_imagenet-df2k.py"

model = dict(
    network=dict(arch="hat_l"),
    init_cfg=dict(checkpoint="work_dirs/hat-l_srx2_imagenet/epoch_160.pth"),
)
