# A narrow Terminator from random weights on photographs of 32 pixels, reduced to 16: rows are multiplied by
# columns, so the side is part of the network. Steps by signs (Kar3). For CPUs.
_base_ = "../_base_/recipes/cifar10_photos.py"

scale = (16, 16)
max_epochs = 2

model = dict(
    backbone=dict(
        type="Terminator",
        arch=dict(
            img_size=16,
            ratios=(4, 3, 2, 1, 1),
            depth=2,
            global_dims=32,
            global_depths=(3, 2, 2, 2, 2),
            local_dims=16,
            local_kernels=(3, 9, 5, 7),
            channel_dims=16,
            interaction_dims=(8, 32),
        ),
    ),
    label_smoothing=0.09,
)
optim_wrapper = dict(_delete_=True, optimizer=dict(type="Kar3", lr=1.215e-3))
