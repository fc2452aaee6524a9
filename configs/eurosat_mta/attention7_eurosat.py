# As published; the optimiser, which is not stated, is our choice.
_base_ = ["../_base_/datasets/eurosat.py", "../_base_/runtimes/dense.py"]

model = dict(
    type="ImageClassifier",
    backbone=dict(type="EuroSATNet", arch="attention7"),
    num_classes=10,
    test_flips=("horizontal", "vertical"),
)
max_epochs = 40
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=1)
optim_wrapper = dict(optimizer=dict(type="Adam", lr=1e-3, weight_decay=1e-4))
param_scheduler = dict(type="CosineAnnealingLR", T_max=max_epochs, by_epoch=True)
default_hooks = dict(checkpoint=dict(save_best="accuracy/top1"))
custom_hooks = [dict(type="EarlyStoppingHook", monitor="accuracy/top1", patience=12)]
