# Features added as in DeepStack after each of the first three of four layers, 4 x 4 vision tokens.
_base_ = "none-r2_mosaics.py"

model = dict(network=dict(memory="deepstack", ratio=3))
