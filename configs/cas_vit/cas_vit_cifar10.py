# A small CAS-ViT from random weights on photographs of 32 pixels, enlarged to 64: maps of 16 x 16 to 2 x 2.
# For CPUs.
_base_ = "../_base_/recipes/cifar10_photos.py"

scale = (64, 64)
max_epochs = 2

model = dict(
    backbone=dict(type="CASViT", arch=dict(embed_dims=(32, 48, 96, 192), depths=(1, 1, 2, 1))),
)
