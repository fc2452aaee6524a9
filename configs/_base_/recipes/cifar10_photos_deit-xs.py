# cifar10_photos.py for a plain vision Transformer.
_base_ = ["cifar10_photos.py", "../models/deit-xs.py"]

model = dict(backbone={{_base_.deit_xs}})
