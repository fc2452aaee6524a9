# The published recipe on shelves of wine, 2 x 11 objects.
_base_ = "oat-yogurt_shelves.py"

data_root = "data/wine"
grid = (2, 11)

model = dict(network=dict(arch="wine"))
pipeline = [
    dict(type="LoadImage"),
    dict(type="CutObjects", grid=grid, size=(150, 93)),
    dict(type="PackScanpaths"),
]
train_dataloader = dict(dataset=dict(data_root=data_root, pipeline=pipeline))
val_dataloader = dict(dataset=dict(data_root=data_root, pipeline=pipeline))
test_dataloader = dict(dataset=dict(data_root=data_root, pipeline=pipeline))
