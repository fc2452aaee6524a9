_base_ = "../_base_/recipes/shakespeare.py"

model = dict(network=dict(type="KernelizedRPE", arch="tiny", max_length=64))
