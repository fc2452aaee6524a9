# HAT against Gaussian noise of sigma 25 in colour images.
# The paper has the task, but neither code nor recipe: the network at the same size and this recipe are ours.
_base_ = "hat_srx2_df2k.py"

model = dict(network=dict(scale=1))
train_dataloader = dict(
    dataset=dict(
        scale=1,
        lq=None,
        pipeline=[
            dict(type="RandomPatch", size=128),
            dict(type="RandomFlipRotate"),
            dict(type="AddNoise", sigma=25.0),
            dict(type="PackRestoration"),
        ],
    )
)
test_pipeline = [dict(type="AddNoise", sigma=25.0), dict(type="PackRestoration")]
val_dataloader = dict(dataset=dict(scale=1, pipeline=test_pipeline))
test_dataloader = dict(
    dataset=dict(scale=1, gt=["CBSD68", "Kodak24", "McMaster", "Urban100"], pipeline=test_pipeline)
)
val_evaluator = dict(crop_border=0, channels="rgb")
test_evaluator = dict(crop_border=0, channels="rgb")
