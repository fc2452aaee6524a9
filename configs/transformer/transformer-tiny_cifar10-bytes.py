_base_ = "../_base_/recipes/cifar10_bytes.py"

model = dict(network=dict(type="Transformer", arch="tiny", positions="learned"))
