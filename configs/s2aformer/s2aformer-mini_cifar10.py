# The smallest S2AFormer on photographs of 32 pixels, enlarged to 64: maps of 16 to 2 pixels a side.
_base_ = "../_base_/recipes/cifar10_photos.py"

scale = (64, 64)
model = dict(
    backbone=dict(type="S2AFormer", arch="mini"),
)
