# The published recipe of DaViT-T on ImageNet-1K: 310 epochs, 1024 images a step (8 processes with 128 each:
# bash tools/dist_train.sh CONFIG 8). Published top-1 is 82.8 %. The published command line also names colour
# jitter of 0.4; it is left out beside RandAugment, which changes colours itself.
#
# data_root has a folder for each split, in it one for each class: train/n01440764/*.JPEG, val/n01440764/...
# Where val is flat, give its data set a list: list_file="val.txt", with lines "NAME.JPEG LABEL".
_base_ = "../_base_/runtimes/dense.py"

data_root = "data/imagenet"
max_epochs = 300  # of the cosine; ten more at its end

model = dict(
    type="ImageClassifier",
    backbone=dict(type="DaViT", arch="tiny", drop_path_rate=0.1),
    num_classes=1000,
    label_smoothing=0.1,
    augments=[
        dict(type="RandomErasing", prob=0.25),
        dict(type="Mixup", mixup=0.8, cutmix=1.0, switch=0.5),
    ],
)

train_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="ImageFolder",
        data_root=data_root,
        split="train",
        seed=0,
        pipeline=[
            dict(type="LoadImage"),
            dict(type="RandomResizedCrop", size=224, interpolation="bicubic"),
            dict(type="RandomFlip", prob=0.5),
            dict(type="RandAugment", num=2, magnitude=9, std=0.5),
            dict(type="PackImage"),
        ],
    ),
)
test_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="ImageFolder",
        data_root=data_root,
        split="val",
        test_mode=True,
        pipeline=[
            dict(type="LoadImage"),
            # the short side to 248 = 224 / 0.9
            dict(
                type="Resize",
                scale=(1_000_000, 248),
                keep_ratio=True,
                backend="pillow",
                interpolation="bicubic",
            ),
            dict(type="CenterCrop", crop_size=224),
            dict(type="PackImage"),
        ],
    ),
)
val_dataloader = test_dataloader
test_evaluator = dict(type="TopK", topk=(1, 5))
val_evaluator = test_evaluator

train_cfg = dict(by_epoch=True, max_epochs=max_epochs + 10, val_interval=10)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    type="pointsuite.AmpOptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, begin=0, end=5, convert_to_iter_based=True),
    dict(
        type="CosineAnnealingLR",
        begin=5,
        end=max(max_epochs, 6),
        T_max=max(max_epochs - 5, 1),
        eta_min=1e-5,
        convert_to_iter_based=True,
    ),
]
default_hooks = dict(logger=dict(interval=100))
