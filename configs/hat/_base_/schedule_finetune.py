# HAT from the weights of another run: 250,000 steps.
_base_ = "schedule.py"

train_cfg = dict(max_epochs=50)
optim_wrapper = dict(optimizer=dict(lr=1e-5))
param_scheduler = dict(milestones=[125_000, 200_000, 225_000, 240_000])
