# As published; the optimiser, which is not stated, and what the plateau is of are our choices.
_base_ = ["../_base_/datasets/eurosat.py", "../_base_/runtimes/dense.py"]

model = dict(
    type="ImageClassifier",
    backbone=dict(type="EuroSATNet", arch="baseline3"),
    num_classes=10,
    test_flips=("horizontal", "vertical"),
)
max_epochs = 30
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=1)
optim_wrapper = dict(optimizer=dict(type="Adam", lr=1e-3, weight_decay=1e-4))
param_scheduler = dict(
    type="ReduceOnPlateauLR", monitor="accuracy/top1", rule="greater", factor=0.5, patience=3, by_epoch=True
)
default_hooks = dict(checkpoint=dict(save_best="accuracy/top1"))
custom_hooks = [dict(type="EarlyStoppingHook", monitor="accuracy/top1", patience=10)]
