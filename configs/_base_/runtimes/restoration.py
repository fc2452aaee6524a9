# What every run of image restoration shares.
_base_ = "default.py"

default_scope = "dense"

val_cfg = dict()
test_cfg = dict()
visualizer = dict(type="RestorationVisualizer")
default_hooks = dict(logger=dict(interval=50))
