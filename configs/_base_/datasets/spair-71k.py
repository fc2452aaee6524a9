# SPair-71k, pairs at 256 x 256. data_root has PairAnnotation and JPEGImages.
data_root = "data/SPair-71k"

train_dataloader = dict(
    batch_size=32,
    num_workers=8,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="SPair71k",
        data_root=data_root,
        split="trn",
        seed=0,
        pipeline=[
            dict(type="LoadPair"),
            dict(type="RandomPhotometric", prob=0.2),
            dict(type="ResizePair", size=256, crop_prob=0.5),
            dict(type="PackPair"),
        ],
    ),
)
test_dataloader = dict(
    batch_size=32,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="SPair71k",
        data_root=data_root,
        split="test",
        test_mode=True,
        pipeline=[dict(type="LoadPair"), dict(type="ResizePair", size=256), dict(type="PackPair")],
    ),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="SPair71k",
        data_root=data_root,
        split="val",
        test_mode=True,
        pipeline=[dict(type="LoadPair"), dict(type="ResizePair", size=256), dict(type="PackPair")],
    ),
)
val_evaluator = dict(type="PCK", alphas=(0.05, 0.1, 0.15))
test_evaluator = dict(type="PCK", alphas=(0.05, 0.1, 0.15), classwise=True)
