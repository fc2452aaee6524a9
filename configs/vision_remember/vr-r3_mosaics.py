# Vision Remember after each of the first three of four layers, 4 x 4 vision tokens.
_base_ = "none-r2_mosaics.py"

model = dict(network=dict(memory="vr", ratio=3, inner=48, heads=3))
