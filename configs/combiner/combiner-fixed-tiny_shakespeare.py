_base_ = "../_base_/recipes/shakespeare.py"

model = dict(network=dict(type="Combiner", arch="tiny", factorization="fixed", segment=8))
