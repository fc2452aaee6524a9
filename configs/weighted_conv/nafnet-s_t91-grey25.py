# NAFNet of width 16, plain, on grey images with noise of sigma 25, for CPUs.
_base_ = "dncnn-s_t91-grey25.py"

model = dict(
    network=dict(
        _delete_=True,
        type="NAFNet",
        width=16,
        encoder_blocks=(1, 1, 2),
        middle_blocks=1,
        decoder_blocks=(1, 1, 1),
        in_channels=1,
    ),
    loss="psnr",
)
