# NAFNet of width 32, plain, on DIV2K.
_base_ = [
    "../_base_/datasets/div2k_denoise.py",
    "../_base_/schedules/adam_100e.py",
    "../_base_/runtimes/restoration.py",
]

model = dict(
    type="ImageRestorer",
    network=dict(
        type="NAFNet",
        width=32,
        encoder_blocks=(1, 1, 1, 28),
        middle_blocks=1,
        decoder_blocks=(1, 1, 1, 1),
    ),
    loss="psnr",
)
optim_wrapper = dict(optimizer=dict(type="AdamW", betas=(0.9, 0.9), weight_decay=0.0))
