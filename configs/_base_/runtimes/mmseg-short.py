# mmseg.py for runs of some hundred iterations.
_base_ = "mmseg.py"

default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=200))
