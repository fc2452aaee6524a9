# HAT-L x4 on ImageNet: the first of two runs.
_base_ = "hat_srx4_imagenet.py"

model = dict(network=dict(arch="hat_l"))
