# What every run of MMDetection shares: default_runtime.py, with its drawings.
_base_ = "default_runtime.py"

default_scope = "mmdet"

visualizer = dict(type="DetLocalVisualizer")
