# What every run of image restoration shares.
_base_ = "dense.py"

val_cfg = dict()
test_cfg = dict()
visualizer = dict(type="RestorationVisualizer")
default_hooks = dict(logger=dict(interval=50))
