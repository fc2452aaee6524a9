# Grey images with Gaussian noise of sigma 25, for CPUs: 91 images to train, BSD68 and Set12 to test, whose
# noise depends on the seed and the image alone. `--cfg-options data_root=DIR` reaches all data sets, which
# are folders: DIR/T91/*.png, DIR/BSD68/*.png, DIR/Set12/*.png.
data_root = "data/restoration"

train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="RestorationDataset",
        data_root=data_root,
        gt="T91",
        grey=True,
        length=4000,
        cache=True,
        seed=0,
        pipeline=[
            dict(type="RandomPatch", size=40),
            dict(type="RandomFlipRotate"),
            dict(type="AddNoise", sigma=25.0),
            dict(type="PackRestoration"),
        ],
    ),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="RestorationDataset",
        data_root=data_root,
        gt=["BSD68", "Set12"],
        grey=True,
        test_mode=True,
        seed=0,
        pipeline=[dict(type="AddNoise", sigma=25.0), dict(type="PackRestoration")],
    ),
)
val_dataloader = test_dataloader
test_evaluator = dict(type="ImageQuality")
val_evaluator = test_evaluator
