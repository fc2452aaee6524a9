# VGG16 with batch norms on CIFAR-100, plain convolutions: the twin of vgg16-weighted_cifar100.py. The recipe
# is ours, the usual one for these networks; none was published with weighted convolutions.
_base_ = ["../_base_/datasets/cifar100.py", "../_base_/runtimes/dense.py"]

max_epochs = 200

model = dict(
    type="ImageClassifier",
    backbone=dict(type="VGGCifar", arch="16"),
    num_classes=100,
    # of the training pictures: 0.5071, 0.4865, 0.4409 and 0.2673, 0.2564, 0.2762 of 255
    data_preprocessor=dict(
        type="StackImages", mean=[129.3105, 124.0575, 112.4295], std=[68.1615, 65.382, 70.431]
    ),
)


# The last epoch is what counts; nothing is chosen on the test split.
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=10)
optim_wrapper = dict(optimizer=dict(type="SGD", lr=0.1, momentum=0.9, weight_decay=5e-4))
param_scheduler = dict(type="CosineAnnealingLR", T_max=max_epochs, convert_to_iter_based=True)
default_hooks = dict(logger=dict(interval=100))
