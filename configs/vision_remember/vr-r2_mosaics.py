# Vision Remember after each of the first three of four layers, 6 x 6 vision tokens.
_base_ = "none-r2_mosaics.py"

model = dict(network=dict(memory="vr", inner=48, heads=3))
