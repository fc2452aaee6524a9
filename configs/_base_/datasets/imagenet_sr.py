# ImageNet for super-resolution x2, before DF2K: all training images, in folders by class or in one; poor
# images are made on the way and not rounded. Those too small for a patch are enlarged.
_base_ = "df2k_sr.py"

train_dataloader = dict(dataset=dict(gt="imagenet/train", lq=None, min_size=128, quantize=False))
