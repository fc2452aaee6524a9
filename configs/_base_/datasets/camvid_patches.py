# Patches of CamVid's street scenes in folders of classes, as made by
# `python tools/prepare_dataset.py camvid-patches --root CAMVID --out data/camvid_patches`: each has the class
# of most of its pixels. `--cfg-options data_root=DIR` reaches all sets, so does `scale`, the width and height
# that networks see. A patch that its network should see larger is enlarged.
data_root = "data/camvid_patches"
scale = (96, 96)

train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="ImageFolder",
        data_root=data_root,
        split="train",
        seed=0,
        pipeline=[
            dict(type="LoadImage"),
            dict(type="Resize", scale=scale),
            dict(type="RandomFlip", prob=0.5),
            dict(type="PackImage"),
        ],
    ),
)
test_pipeline = [dict(type="LoadImage"), dict(type="Resize", scale=scale), dict(type="PackImage")]
val_dataloader = dict(
    batch_size=64,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="ImageFolder",
        data_root=data_root,
        split="val",
        class_split="train",
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = dict(
    batch_size=64,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="ImageFolder",
        data_root=data_root,
        split="test",
        class_split="train",
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
val_evaluator = [dict(type="TopK", topk=(1,)), dict(type="BalancedAccuracy", by_class=True)]
test_evaluator = val_evaluator
val_cfg = dict()
test_cfg = dict()
