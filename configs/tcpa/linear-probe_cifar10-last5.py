# The other five classes, for the network of deit-xs_cifar10-first5.py, which must have been trained before: a
# classifier of its class token, nothing else. What all ways of tuning share stands here.
_base_ = ["../_base_/recipes/cifar10_photos.py", "../_base_/models/deit-xs.py"]

pretrained = "work_dirs/deit-xs_cifar10-first5"  # its last checkpoint
max_epochs = 6
metainfo = dict(classes=["dog", "frog", "horse", "ship", "truck"])
train_dataloader = dict(batch_size=64, dataset=dict(metainfo=metainfo, fraction=0.1))
test_dataloader = dict(dataset=dict(metainfo=metainfo))
val_dataloader = test_dataloader
test_evaluator = dict(type="TopK", topk=(1,))
val_evaluator = test_evaluator
model = dict(
    num_classes=5,
    label_smoothing=0.0,
    backbone=dict(type="VPT", arch=dict(trunk={{_base_.deit_xs}}), num_prompts=0, pretrained=pretrained),
)
train_cfg = dict(val_interval=max_epochs)
optim_wrapper = dict(optimizer=dict(lr=5e-3, weight_decay=0.1))
