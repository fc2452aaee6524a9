# adamw_20k.py at the rate and decay of Semantic FPN.
_base_ = "adamw_20k.py"

optim_wrapper = dict(optimizer=dict(lr=1e-4, weight_decay=1e-4))
