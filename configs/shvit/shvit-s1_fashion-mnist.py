# SHViT-S1 from random weights on Fashion-MNIST, enlarged to 64 x 64 (its stem has a stride of 16): a run of
# some minutes on a CPU. Data: apt-get install dataset-fashion-mnist, or --cfg-options data_root=DIR.
_base_ = ["../_base_/schedules/adamw_12e.py", "../_base_/runtimes/dense.py"]

data_root = "/usr/share/datasets/fashion-mnist"
max_epochs = 3

model = dict(
    type="ImageClassifier",
    backbone=dict(type="SHViT", arch="s1"),
    num_classes=10,
    label_smoothing=0.1,
    data_preprocessor=dict(type="StackImages", mean=[73.0], std=[90.0]),
)

train_dataloader = dict(
    batch_size=128,
    num_workers=0,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="FashionMNIST",
        data_root=data_root,
        split="train",
        seed=0,
        pipeline=[
            dict(type="Resize", scale=(64, 64)),
            dict(type="RandomFlip", prob=0.5),
            dict(type="PackImage"),
        ],
    ),
)
test_dataloader = dict(
    batch_size=128,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="FashionMNIST",
        data_root=data_root,
        split="test",
        test_mode=True,
        pipeline=[dict(type="Resize", scale=(64, 64)), dict(type="PackImage")],
    ),
)
val_dataloader = test_dataloader
test_evaluator = dict(type="TopK", topk=(1, 5))
val_evaluator = test_evaluator
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(
    optimizer=dict(lr=4e-3, weight_decay=0.025),
    clip_grad=dict(max_norm=5.0),
)
default_hooks = dict(logger=dict(interval=50))
