# What every run of MMDetection shares: default.py, with its drawings.
_base_ = "default.py"

default_scope = "mmdet"

visualizer = dict(type="DetLocalVisualizer")
