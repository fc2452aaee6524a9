# The same for x4.
_base_ = "df2k_sr.py"

train_dataloader = dict(
    dataset=dict(scale=4, lq=["DIV2K_train_LR_bicubic/X4", "Flickr2K_LR_bicubic/X4"]),
)
val_dataloader = dict(dataset=dict(scale=4))
test_dataloader = dict(dataset=dict(scale=4))
val_evaluator = dict(crop_border=4)
test_evaluator = dict(crop_border=4)
