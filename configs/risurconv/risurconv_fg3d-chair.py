# RISurConv on the chairs of FG3D, as published: a Poisson disk of 1024 points, ModelNet40's augmentation.
_base_ = "risurconv_modelnet40.py"

data_file = "data/fg3d_chair.h5"

model = dict(network=dict(num_classes=33))
train_dataloader = dict(dataset=dict(data_file=data_file))
test_dataloader = dict(dataset=dict(data_file=data_file))
val_dataloader = test_dataloader
train_cfg = dict(max_epochs=900)
custom_hooks = [dict(type="SetLearningRateHook", rates={300: 1e-3, 600: 8e-4})]
