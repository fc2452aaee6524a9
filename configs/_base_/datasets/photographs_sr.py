# Super-resolution x2 of the bundled photographs, 80 to train and 20 to test; poor images are made when they
# are first read, and kept in memory. Your own: --cfg-options data_root=DIR, with DIR/train/* and DIR/test/*.
_base_ = "t91_sr.py"

data_root = "{{fileDirname}}/../../../data/photographs"

train_dataloader = dict(dataset=dict(data_root=data_root, gt="train"))
test_dataloader = dict(dataset=dict(data_root=data_root, gt=["test"]))
val_dataloader = test_dataloader
