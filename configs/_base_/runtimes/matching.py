# What every run of dense matching shares.
_base_ = "dense.py"

val_cfg = dict()
test_cfg = dict()
visualizer = dict(type="MatchVisualizer")
