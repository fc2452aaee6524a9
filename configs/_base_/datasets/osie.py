# OSIE: photographs and fixations of 15 people, free viewing; the cells of a grid of 6 x 8 are the objects.
# 560 photographs to train, 70 to validate, 70 to test. data_root: a folder with images and scanpaths.json.
data_root = "data/osie"
grid = (6, 8)

pipeline = [
    dict(type="LoadImage"),
    dict(type="CutObjects", grid=grid, size=(50, 50)),
    dict(type="PackScanpaths"),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(type="OSIE", data_root=data_root, split="train", seed=0, pipeline=pipeline),
)
val_dataloader = dict(
    batch_size=10,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="OSIE", data_root=data_root, split="val", test_mode=True, pipeline=pipeline),
)
test_dataloader = dict(
    batch_size=10,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="OSIE", data_root=data_root, split="test", test_mode=True, pipeline=pipeline),
)
val_evaluator = dict(type="ScanpathSimilarity")
test_evaluator = dict(type="ScanpathSimilarity")
