# RIConv++ with the centres, neighbours and channels of RISurConv-s.
_base_ = "../risurconv/risurconv-s_kicad_z.py"

model = dict(
    network=dict(
        _delete_=True,
        type="RIConv2Classifier",
        num_classes=10,
        centres=(256, 128, 64, 32),
        neighbours=(8, 16, 16, 32),
        channels=(32, 64, 128, 256, 256),
        embed_channels=(16, 32),
        head_dims=(128,),
    )
)
