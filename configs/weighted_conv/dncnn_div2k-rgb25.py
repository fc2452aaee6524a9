# DnCNN, plain, on DIV2K.
_base_ = [
    "../_base_/datasets/div2k_denoise.py",
    "../_base_/schedules/restoration_100k.py",
    "../_base_/default_runtime_restoration.py",
]

model = dict(type="ImageRestorer", network=dict(type="DnCNN", depth=17, channels=64), loss="mse")
