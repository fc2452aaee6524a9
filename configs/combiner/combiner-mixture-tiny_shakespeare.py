_base_ = "../_base_/recipes/shakespeare.py"

model = dict(network=dict(type="Combiner", arch="tiny", factorization="mixture", segment=8))
