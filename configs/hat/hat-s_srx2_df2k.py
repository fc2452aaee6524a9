# HAT-S x2 on DF2K.
_base_ = "hat_srx2_df2k.py"

model = dict(network=dict(arch="hat_s"))
