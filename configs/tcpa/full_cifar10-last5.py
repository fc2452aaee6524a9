# All of the network is tuned, at a rate for that.
_base_ = "linear-probe_cifar10-last5.py"

model = dict(backbone=dict(freeze=False))
optim_wrapper = dict(optimizer=dict(lr=5e-4, weight_decay=0.05))
