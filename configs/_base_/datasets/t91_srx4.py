# The same for x4. Of the 91 images the smallest is enlarged from 78 to 96 pixels, so that a patch fits.
_base_ = "t91_sr.py"

train_dataloader = dict(
    dataset=dict(
        scale=4,
        min_size=96,
        pipeline=[
            dict(type="RandomPatch", size=24),
            dict(type="RandomFlipRotate"),
            dict(type="PackRestoration"),
        ],
    )
)
test_dataloader = dict(dataset=dict(scale=4))
val_dataloader = dict(dataset=dict(scale=4))
test_evaluator = dict(crop_border=4)
val_evaluator = dict(crop_border=4)
