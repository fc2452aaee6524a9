# Terminator on CIFAR-100 by the published recipe: 100 epochs of 64 pictures a step, Kar3, 8 epochs of warm-up
# and a cosine. The published code chooses its best epoch on the test split; here the last one counts.
# CIFAR-10 has the same recipe: --cfg-options model.num_classes=10 train_dataloader.dataset.num_classes=10
# test_dataloader.dataset.num_classes=10 val_dataloader.dataset.num_classes=10
_base_ = ["../_base_/datasets/cifar100.py", "../_base_/runtimes/dense.py"]

max_epochs = 100

model = dict(
    type="ImageClassifier",
    backbone=dict(type="Terminator", arch="cifar", drop_rate=0.05),
    num_classes=100,
    label_smoothing=0.09,
    # of CIFAR-10, for both: 0.4914, 0.4822, 0.4465 and 0.2470, 0.2435, 0.2616 of 255
    data_preprocessor=dict(
        type="StackImages", mean=[125.307, 122.961, 113.8575], std=[62.985, 62.0925, 66.708]
    ),
)

# published: crops with a border of mirrored pixels
train_dataloader = dict(batch_size=64)
test_dataloader = dict(batch_size=64)
val_dataloader = test_dataloader

train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=5)
optim_wrapper = dict(optimizer=dict(type="Kar3", lr=1.215e-3))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-5, begin=0, end=8, convert_to_iter_based=True),
    dict(
        type="CosineAnnealingLR",
        begin=8,
        end=max(max_epochs, 9),
        T_max=max(max_epochs - 8, 1),
        eta_min=0,
        convert_to_iter_based=True,
    ),
]
default_hooks = dict(logger=dict(interval=100))
