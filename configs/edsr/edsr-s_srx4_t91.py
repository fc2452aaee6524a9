# 8 blocks of 32 channels, x4, from random weights: a run of some minutes on a CPU.
_base_ = [
    "../_base_/datasets/t91_srx4.py",
    "../_base_/schedules/adam_16e.py",
    "../_base_/runtimes/restoration.py",
]

model = dict(
    type="ImageRestorer",
    network=dict(type="EDSR", arch="s", scale=4),
    loss="l1",
)
