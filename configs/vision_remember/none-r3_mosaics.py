# Never looks again, 4 x 4 vision tokens.
_base_ = "none-r2_mosaics.py"

model = dict(network=dict(ratio=3))
