# Interpreters for the network of configs/vit/deit-xs_cifar10.py, which must have been trained before: one
# epoch of each interpreter, then two of the blocks after it.
_base_ = [
    "../_base_/datasets/cifar10_photos.py",
    "../_base_/schedules/adamw_12e.py",
    "../_base_/runtimes/default.py",
]

default_scope = "dense"
pretrained = "work_dirs/deit-xs_cifar10"  # its last checkpoint
max_epochs = 9
model = dict(
    type="IARED2Classifier",
    pretrained=pretrained,
    interpreter_epochs=1,
    block_epochs=2,
    backbone=dict(
        type="IARED2",
        arch=dict(
            embed_dims=96,
            depth=6,
            num_heads=3,
            patch_size=4,
            img_size=32,
            mlp="mlp",
            layer_scale_init=0.0,
            num_registers=0,
            distillation=False,
            antialias=True,
            scale_offset=0.0,
            groups=(2, 2, 2),
            interpreter_heads=6,
        ),
    ),
    num_classes=10,
)
# the phases follow one another at one learning rate
optim_wrapper = dict(optimizer=dict(lr=2e-4))
param_scheduler = []
custom_hooks = [dict(type="TellEpoch")]
