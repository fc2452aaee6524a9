# Fresh prompts in each block (VPT-deep).
_base_ = "linear-probe_cifar10-last5.py"

model = dict(backbone=dict(num_prompts=10))
