# What every run of dense matching shares.
_base_ = "default.py"

default_scope = "dense"

val_cfg = dict()
test_cfg = dict()
visualizer = dict(type="MatchVisualizer")
