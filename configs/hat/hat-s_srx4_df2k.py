# HAT-S x4 on DF2K.
_base_ = "hat_srx4_df2k.py"

model = dict(
    network=dict(arch="hat_s"),
    init_cfg=dict(checkpoint="work_dirs/hat-s_srx2_df2k/epoch_100.pth"),
)
