# What every run of gaze prediction shares.
_base_ = "dense.py"

val_cfg = dict()
test_cfg = dict()
visualizer = dict(type="ScanpathVisualizer")
