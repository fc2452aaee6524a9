# Photographs of 32 x 32 pixels in ten classes, in folders: DIR/train/CLASS/*.jpg and DIR/test/CLASS/*.jpg.
# `--cfg-options data_root=DIR` reaches both sets, so does `scale`, the width and height that networks see.
data_root = "data/cifar10_jpeg"
scale = (32, 32)

train_dataloader = dict(
    batch_size=128,
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
            dict(type="RandomPadCrop", size=32, padding=4),
            dict(type="RandomFlip", prob=0.5),
            dict(type="Resize", scale=scale),
            dict(type="PackImage"),
        ],
    ),
)
test_dataloader = dict(
    batch_size=128,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="ImageFolder",
        data_root=data_root,
        split="test",
        class_split="train",
        test_mode=True,
        pipeline=[dict(type="LoadImage"), dict(type="Resize", scale=scale), dict(type="PackImage")],
    ),
)
val_dataloader = test_dataloader
test_evaluator = dict(type="TopK", topk=(1, 5))
val_evaluator = test_evaluator
val_cfg = dict()
test_cfg = dict()
