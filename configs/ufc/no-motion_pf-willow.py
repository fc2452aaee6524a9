# Every point is where it was. Nothing to train: python tools/test.py configs/ufc/no-motion_pf-willow.py
_base_ = "../_base_/matching-small.py"

model = dict(type="DenseMatcher", network=dict(type="NoMotion"))
