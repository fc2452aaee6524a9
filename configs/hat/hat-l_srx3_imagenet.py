# HAT-L x3 on ImageNet: the first of two runs.
_base_ = "hat_srx3_imagenet.py"

model = dict(network=dict(arch="hat_l"))
