_base_ = "../_base_/recipes/shakespeare.py"

model = dict(network=dict(type="TransNormer", arch="tiny"))
