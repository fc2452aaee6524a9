# ImageNet for super-resolution x3, before DF2K: all training images, in folders by class or in one; poor
# images are made on the way and not rounded. Those too small for a patch are enlarged.
_base_ = "df2k_srx3.py"

train_dataloader = dict(dataset=dict(gt="imagenet/train", lq=None, min_size=192, quantize=False))
