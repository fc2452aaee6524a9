# The published 2x schedule. Its step is not stated; here the rate falls with the last sixth, as in 12 epochs.
_base_ = "relation-detr_r50_8xb2-12e_coco.py"

train_cfg = dict(max_epochs=24)
param_scheduler = [dict(type="MultiStepLR", begin=0, end=24, by_epoch=True, milestones=[20], gamma=0.1)]
