# Matching learnt without any label, for CPUs: pictures and what a random warp makes of them, 128 x 128
# pixels. Validated on warped pictures of BSD68, tested on PF-WILLOW, of which nothing is used in training.
#
# data_root has the folders named below; --cfg-options data_root=DIR for another place.
data_root = "data"
size = 128

warp_pipeline = [
    dict(type="LoadImage"),
    dict(type="RandomResizedCrop", size=size, area=(0.25, 1.0), interpolation="bilinear"),
    dict(type="RandomWarp"),
    dict(type="RandomPhotometric"),
    dict(type="PackPair"),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="ImageFiles",
        data_root=data_root,
        folders=["camvid/train", "pennfudan/images", "restoration/T91"],
        seed=0,
        pipeline=warp_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="ImageFiles",
        data_root=data_root,
        folders=["restoration/BSD68"],
        test_mode=True,
        pipeline=warp_pipeline,
    ),
)
test_dataloader = dict(
    batch_size=10,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="PFWillow",
        data_root=data_root,
        folder="pf_willow",
        test_mode=True,
        pipeline=[dict(type="LoadPair"), dict(type="ResizePair", size=size), dict(type="PackPair")],
    ),
)
val_evaluator = dict(type="FlowError")
test_evaluator = dict(type="PCK", alphas=(0.05, 0.1, 0.15))
