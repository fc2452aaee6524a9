# Its twin with weighted convolutions: the same seed, the same first weights, the same samples.
_base_ = "dncnn_div2k-rgb25.py"

model = dict(network=dict(density={"3": [0.7]}))
