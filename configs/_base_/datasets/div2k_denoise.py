# Colour images of DIV2K with Gaussian noise of sigma 25 (no strength was published): 800 to train in an
# epoch of 1000 batches of patches of 128 pixels, 100 to test. `--cfg-options data_root=DIR` reaches all
# data sets.
data_root = "data/restoration"

train_dataloader = dict(
    batch_size=16,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="RestorationDataset",
        data_root=data_root,
        gt="DIV2K_train_HR",
        length=16_000,
        seed=0,
        pipeline=[
            dict(type="RandomPatch", size=128),
            dict(type="RandomFlipRotate"),
            dict(type="AddNoise", sigma=25.0),
            dict(type="PackRestoration"),
        ],
    ),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="RestorationDataset",
        data_root=data_root,
        gt="DIV2K_valid_HR",
        test_mode=True,
        seed=0,
        pipeline=[dict(type="AddNoise", sigma=25.0), dict(type="PackRestoration")],
    ),
)
val_dataloader = test_dataloader
test_evaluator = dict(type="ImageQuality", channels="rgb")
val_evaluator = test_evaluator
