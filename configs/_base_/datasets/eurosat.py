# EuroSAT's RGB tiles of 64 x 64 pixels in ten folders, in the published split 70/15/15: `random_split` of
# PyTorch with seed 42. `--cfg-options data_root=DIR split_by=stratified` reaches all sets.
data_root = "data/eurosat"
split_by = "random"

train_dataloader = dict(
    batch_size=64,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="EuroSAT",
        data_root=data_root,
        split="train",
        split_by=split_by,
        seed=0,
        pipeline=[
            dict(type="LoadImage"),
            dict(type="RandomFlip", prob=0.5, direction="horizontal"),
            dict(type="RandomFlip", prob=0.5, direction="vertical"),
            dict(type="RandomRotation", degrees=90),
            dict(type="ColorJitter", brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1),
            dict(type="RandomBlur", sigma=(0.1, 2.0)),
            dict(type="PackImage"),
        ],
    ),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="EuroSAT",
        data_root=data_root,
        split="val",
        split_by=split_by,
        test_mode=True,
        pipeline=[dict(type="LoadImage"), dict(type="PackImage")],
    ),
)
test_dataloader = dict(
    batch_size=64,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="EuroSAT",
        data_root=data_root,
        split="test",
        split_by=split_by,
        test_mode=True,
        pipeline=[dict(type="LoadImage"), dict(type="PackImage")],
    ),
)
val_evaluator = dict(type="TopK", topk=(1,))
test_evaluator = [
    dict(type="TopK", topk=(1,)),
    dict(type="Agreement"),
    dict(type="ConfidenceGap"),
    dict(type="BalancedAccuracy", by_class=True),
]
val_cfg = dict()
test_cfg = dict()
