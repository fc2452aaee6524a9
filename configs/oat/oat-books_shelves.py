# The published recipe on book covers, 6 x 14 objects, whose pictures are not scaled.
_base_ = "oat-yogurt_shelves.py"

data_root = "data/books"
grid = (6, 14)

model = dict(network=dict(arch="books"), data_preprocessor=dict(scale="none"))
pipeline = [
    dict(type="LoadImage"),
    dict(type="CutObjects", grid=grid, size=(150, 93)),
    dict(type="PackScanpaths"),
]
train_dataloader = dict(dataset=dict(data_root=data_root, pipeline=pipeline))
val_dataloader = dict(dataset=dict(data_root=data_root, pipeline=pipeline))
test_dataloader = dict(dataset=dict(data_root=data_root, pipeline=pipeline))
