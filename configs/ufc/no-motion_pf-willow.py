# Every point is where it was. Nothing to train: python tools/test.py configs/ufc/no-motion_pf-willow.py
_base_ = [
    "../_base_/models/resnet18-half.py",
    "../_base_/datasets/warps_pf-willow.py",
    "../_base_/schedules/adamw_12e.py",
    "../_base_/runtimes/matching.py",
]

model = dict(type="DenseMatcher", network=dict(type="NoMotion"))
