# Super-resolution x2 for CPUs: 91 small images to train, Set5 and Set14 to test; poor images are made when
# they are first read, and kept in memory. `--cfg-options data_root=DIR` reaches all data sets, which are
# folders: DIR/T91/*.png, DIR/Set5/*.png, DIR/Set14/*.png.
data_root = "data/restoration"

train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="RestorationDataset",
        data_root=data_root,
        gt="T91",
        scale=2,
        length=4000,
        cache=True,
        seed=0,
        pipeline=[
            dict(type="RandomPatch", size=32),
            dict(type="RandomFlipRotate"),
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
        gt=["Set5", "Set14"],
        scale=2,
        test_mode=True,
        pipeline=[dict(type="PackRestoration")],
    ),
)
val_dataloader = test_dataloader
test_evaluator = dict(type="ImageQuality", crop_border=2, channels="y")
val_evaluator = test_evaluator
