# Registers for the network of configs/tcpa/deit-xs_cifar10-first5.py, which must have been trained before:
# from photographs of all ten classes, without their labels.
_base_ = [
    "../_base_/datasets/cifar10_photos.py",
    "../_base_/models/deit-xs.py",
    "../_base_/schedules/adamw_12e.py",
    "../_base_/runtimes/dense.py",
]

pretrained = "work_dirs/deit-xs_cifar10-first5"  # its last checkpoint
max_epochs = 3
train_dataloader = dict(
    batch_size=16,
    dataset=dict(
        fraction=0.05,
        pipeline=[
            dict(type="LoadImage"),
            dict(type="Resize", scale={{_base_.scale}}),
            dict(type="PackImage"),
        ],
    ),
)
# 1,000 photographs, spread evenly over the classes
test_dataloader = dict(dataset=dict(fraction=0.25))
val_dataloader = test_dataloader
test_evaluator = dict(_delete_=True, type="ArtifactTokens")
val_evaluator = test_evaluator
model = dict(
    type="PHRegDistiller",
    backbone={{_base_.deit_xs}},
    pretrained=pretrained,
    num_registers=4,
)
visualizer = dict(type="NormVisualizer")
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
# as published: lr falls by one factor an epoch, from the first epoch's end, to a twentieth
optim_wrapper = dict(
    _delete_=True, optimizer=dict(type="AdamW", lr=1e-3 * 0.05 ** (1 / max_epochs), weight_decay=0.01)
)
param_scheduler = [dict(type="ExponentialLR", gamma=0.05 ** (1 / max_epochs), by_epoch=True)]
