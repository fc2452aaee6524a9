# HAT-L x2 on ImageNet: the first of two runs.
_base_ = "hat_srx2_imagenet.py"

model = dict(network=dict(arch="hat_l"))
