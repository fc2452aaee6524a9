# HAT on ImageNet: 800,000 steps.
_base_ = "schedule.py"

train_cfg = dict(max_epochs=160)
param_scheduler = dict(milestones=[300_000, 500_000, 650_000, 700_000, 750_000])
