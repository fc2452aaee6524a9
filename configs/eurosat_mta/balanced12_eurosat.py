# As published: weighted classes, AdamW, cosine restarts after epochs 15 and 45. Published in mixed precision:
# `--amp`. The published decay reaches alpha, norms and biases, too; `--cfg-options no_decay=norm,bias,alpha`
# spares them.
_base_ = ["../_base_/datasets/eurosat.py", "../_base_/runtimes/dense.py"]

model = dict(
    type="ImageClassifier",
    backbone=dict(type="EuroSATNet", arch="balanced12"),
    num_classes=10,
    class_weights=(1.0, 0.8, 1.3, 1.0, 1.3, 1.0, 1.3, 0.8, 1.0, 0.8),
    test_flips=("horizontal", "vertical"),
)
no_decay = ()  # what has one of these in its name
max_epochs = 80
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=1)
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
    constructor="NoDecayConstructor",
    paramwise_cfg=dict(no_decay_keys=no_decay),
)
param_scheduler = dict(
    type="CosineRestartLR", periods=(15, 30, 60), restart_weights=(1, 1, 1), eta_min=0, by_epoch=True
)
default_hooks = dict(checkpoint=dict(save_best="accuracy/top1"))
custom_hooks = [dict(type="EarlyStoppingHook", monitor="accuracy/top1", patience=15)]
