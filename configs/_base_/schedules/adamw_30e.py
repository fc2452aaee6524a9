# 30 epochs of AdamW for small networks of point clouds. The last epoch is what counts; nothing is chosen on
# the test split.
max_epochs = 30
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=10)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=2e-3, weight_decay=0.01),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.04, begin=0, end=4, convert_to_iter_based=True),
    dict(
        type="CosineAnnealingLR",
        begin=4,
        end=max(max_epochs, 5),
        T_max=max(max_epochs - 4, 1),
        convert_to_iter_based=True,
    ),
]
