# A plain vision Transformer (DeiT) on photographs of 32 pixels. For CPUs.
_base_ = "../_base_/recipes/cifar10_photos_deit-xs.py"
