# As edsr-s_srx2_t91.py, of the bundled photographs: the run whose weights are shipped as "edsr_s".
_base_ = [
    "../_base_/datasets/photographs_sr.py",
    "../_base_/schedules/adam_16e.py",
    "../_base_/runtimes/restoration.py",
]

max_epochs = 8

model = dict(
    type="ImageRestorer",
    network=dict(type="EDSR", arch="s", scale=2),
    loss="l1",
)
