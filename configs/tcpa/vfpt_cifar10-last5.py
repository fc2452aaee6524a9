# The prompts of vpt_cifar10-last5.py by way of a Fourier transform.
_base_ = "vpt_cifar10-last5.py"

model = dict(backbone=dict(use_fourier=True))
