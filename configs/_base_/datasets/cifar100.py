# CIFAR-100, 50,000 and 10,000 pictures of 32 x 32 pixels: cifar-100-binary.tar.gz (the "binary version"), as
# it is or unpacked. `--cfg-options data_root=DIR` reaches both sets.
data_root = "data/cifar"

train_dataloader = dict(
    batch_size=128,
    num_workers=2,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="CIFAR",
        data_root=data_root,
        split="train",
        seed=0,
        pipeline=[
            dict(type="RandomPadCrop", size=32, padding=4),
            dict(type="RandomFlip", prob=0.5),
            dict(type="PackImage"),
        ],
    ),
)
test_dataloader = dict(
    batch_size=128,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="CIFAR",
        data_root=data_root,
        split="test",
        test_mode=True,
        pipeline=[dict(type="PackImage")],
    ),
)
val_dataloader = test_dataloader
test_evaluator = dict(type="TopK", topk=(1, 5))
val_evaluator = test_evaluator
val_cfg = dict()
test_cfg = dict()
