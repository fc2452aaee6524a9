# DnCNN, plain, on DIV2K.
_base_ = [
    "../_base_/datasets/div2k_denoise.py",
    "../_base_/schedules/adam_100e.py",
    "../_base_/runtimes/restoration.py",
]

model = dict(type="ImageRestorer", network=dict(type="DnCNN", depth=17, channels=64), loss="mse")
