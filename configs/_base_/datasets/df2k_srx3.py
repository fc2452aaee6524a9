# The same for x3.
_base_ = "df2k_sr.py"

train_dataloader = dict(
    dataset=dict(scale=3, lq=["DIV2K_train_LR_bicubic/X3", "Flickr2K_LR_bicubic/X3"]),
)
val_dataloader = dict(dataset=dict(scale=3))
test_dataloader = dict(dataset=dict(scale=3))
val_evaluator = dict(crop_border=3)
test_evaluator = dict(crop_border=3)
