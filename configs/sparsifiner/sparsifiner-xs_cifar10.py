# The network of configs/vit/deit-xs_cifar10.py, which must have been trained before, with a quarter of its
# keys: one epoch in which masks learn to reconstruct attention, three of distillation.
_base_ = "../_base_/recipes/cifar10_photos.py"

pretrained = "work_dirs/deit-xs_cifar10"  # its last checkpoint
max_epochs = 4
model = dict(
    type="SparsifinerClassifier",
    label_smoothing=0.0,
    pretrained=pretrained,
    reconstruction_epochs=1,
    backbone=dict(
        type="Sparsifiner",
        arch=dict(
            embed_dims=96,
            depth=6,
            num_heads=3,
            patch_size=4,
            img_size=32,
            mlp_ratio=4.0,
            qkv_bias=True,
            norm_eps=1e-6,
            branch_scale=1.0,
            stem="patches",
            reduce_n=4,
            reduce_c=2,
        ),
        keep_rate=0.25,
    ),
)
optim_wrapper = dict(optimizer=dict(lr=2e-4))
param_scheduler = []
custom_hooks = [dict(type="TellEpoch")]
