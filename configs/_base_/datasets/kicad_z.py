# kicad.py, every training shape rotated about the vertical axis.
_base_ = "kicad.py"

train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type="SamplePoints", num=768),
            dict(type="NormalizeUnitSphere"),
            dict(type="RandomScale", low=0.8, high=1.2),
            dict(type="RandomRotate", mode="z"),
            dict(type="PackPoints"),
        ]
    )
)
