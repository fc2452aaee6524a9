# HAT x2 on DF2K from random weights, as published.
_base_ = [
    "../_base_/datasets/df2k_sr.py",
    "_base_/schedule.py",
    "../_base_/runtimes/restoration.py",
]

model = dict(type="ImageRestorer", network=dict(type="HAT", arch="hat", scale=2), loss="l1")
