# Super-resolution x2 on DF2K: 800 images of DIV2K and 2650 of Flickr2K with their published poor images, in
# the folders named below. An epoch is 5000 steps of 32 samples (8 processes with 4 each:
# tools/dist_train.sh CONFIG 8). Whole images are read for every patch: cut them into overlapping parts of
# 480 pixels first if disks or decoding are what one waits for. `--cfg-options data_root=DIR` reaches all
# data sets.
data_root = "data/restoration"

train_dataloader = dict(
    batch_size=4,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="RestorationDataset",
        data_root=data_root,
        gt=["DIV2K_train_HR", "Flickr2K_HR"],
        lq=["DIV2K_train_LR_bicubic/X2", "Flickr2K_LR_bicubic/X2"],
        scale=2,
        length=160_000,
        seed=0,
        pipeline=[
            dict(type="RandomPatch", size=64),
            dict(type="RandomFlipRotate"),
            dict(type="PackRestoration"),
        ],
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="RestorationDataset",
        data_root=data_root,
        gt="DIV2K_valid_HR",
        scale=2,
        test_mode=True,
        pipeline=[dict(type="PackRestoration")],
    ),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=2,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="RestorationDataset",
        data_root=data_root,
        gt=["Set5", "Set14", "BSD100", "Urban100", "Manga109"],
        scale=2,
        test_mode=True,
        pipeline=[dict(type="PackRestoration")],
    ),
)
val_evaluator = dict(type="ImageQuality", crop_border=2, channels="y")
test_evaluator = dict(type="ImageQuality", crop_border=2, channels="y")
