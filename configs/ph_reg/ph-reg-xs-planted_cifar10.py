# A check: four artefacts are planted into the network first, at fixed places.
_base_ = "ph-reg-xs_cifar10.py"

model = dict(planted=4)
