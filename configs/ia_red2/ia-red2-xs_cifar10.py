# Interpreters for the network of configs/vit/deit-xs_cifar10.py, which must have been trained before: one
# epoch of each interpreter, then two of the blocks after it.
_base_ = "../_base_/recipes/cifar10_photos_deit-xs.py"

pretrained = "work_dirs/deit-xs_cifar10"  # its last checkpoint
max_epochs = 9
model = dict(
    type="IARED2Classifier",
    label_smoothing=0.0,
    pretrained=pretrained,
    interpreter_epochs=1,
    block_epochs=2,
    backbone=dict(type="IARED2", arch=dict(groups=(2, 2, 2), interpreter_heads=6)),
)
# the phases follow one another at one learning rate
optim_wrapper = dict(optimizer=dict(lr=2e-4))
param_scheduler = []
custom_hooks = [dict(type="TellEpoch")]
