# HAT-S x3 on DF2K.
_base_ = "hat_srx3_df2k.py"

model = dict(network=dict(arch="hat_s"))
