_base_ = "../_base_/recipes/shakespeare.py"

model = dict(network=dict(type="Transformer", arch="tiny", positions="learned", max_length=64))
