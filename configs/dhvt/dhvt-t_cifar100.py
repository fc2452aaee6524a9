# DHVT-T on CIFAR-100 from random weights, as published: 300 epochs, 512 images a step. Published top-1 is
# 80.93 %. Repeated augmentation is left out; head tokens' positions do not decay, those published do. DHVT-S
# has 256 images a step, so model.backbone.arch=small_cifar_patch4, optim_wrapper.optimizer.lr=5e-4.
_base_ = ["../_base_/datasets/cifar100.py", "../_base_/runtimes/dense.py"]

max_epochs = 300

model = dict(
    type="ImageClassifier",
    backbone=dict(type="DHVT", arch="tiny_cifar_patch4"),
    num_classes=100,
    label_smoothing=0.1,
    augments=[
        dict(type="RandomErasing", prob=0.25),
        dict(type="Mixup", mixup=0.8, cutmix=1.0, switch=0.5),
    ],
)

train_dataloader = dict(
    batch_size=512,
    num_workers=8,
    dataset=dict(
        pipeline=[
            dict(type="RandomPadCrop", size=32, padding=4),
            dict(type="RandomFlip", prob=0.5),
            dict(type="RandAugment", num=2, magnitude=9, std=0.5),
            dict(type="PackImage"),
        ]
    ),
)
test_dataloader = dict(batch_size=512)
val_dataloader = test_dataloader

# The last epoch is what counts; nothing is chosen on the test split.
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=10)
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys=dict(cls_token=dict(decay_mult=0.0), pos_embed=dict(decay_mult=0.0)),
    ),
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
custom_hooks = [dict(type="EMAHook", momentum=4e-5)]
default_hooks = dict(logger=dict(interval=50))
