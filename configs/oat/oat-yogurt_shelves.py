# The published recipe on shelves of yogurt, 3 x 9 objects: up to 500 epochs, until the gap of the behaviour
# has not become less for 30 of them; the epoch of the least gap is kept as best_*.pth. For GPUs.
#
# data_root: a folder with images and scanpaths.json (see the README).
_base_ = "../_base_/runtimes/gaze.py"

data_root = "data/yogurt"
grid = (3, 9)

pipeline = [
    dict(type="LoadImage"),
    dict(type="CutObjects", grid=grid, size=(150, 93)),
    dict(type="PackScanpaths"),
]
model = dict(
    type="ScanpathModel",
    network=dict(type="OAT", arch="yogurt"),
    max_length=60,  # of a path: the longest of one's own training
    data_preprocessor=dict(type="ScaleObjects", scale="object"),
)
train_dataloader = dict(
    batch_size=20,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(type="SearchScanpaths", data_root=data_root, split="train", seed=0, pipeline=pipeline),
)
val_dataloader = dict(
    batch_size=20,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="SearchScanpaths", data_root=data_root, split="val", test_mode=True, pipeline=pipeline),
)
test_dataloader = dict(
    batch_size=20,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="SearchScanpaths", data_root=data_root, split="test", test_mode=True, pipeline=pipeline
    ),
)
val_evaluator = dict(type="ScanpathSimilarity")
test_evaluator = dict(type="ScanpathSimilarity")

train_cfg = dict(by_epoch=True, max_epochs=500, val_interval=1)
optim_wrapper = dict(optimizer=dict(type="Adam", lr=1e-4), clip_grad=dict(max_norm=1.0))
default_hooks = dict(checkpoint=dict(save_best="scanpath/delta", rule="less", max_keep_ckpts=2))
custom_hooks = [dict(type="EarlyStoppingHook", monitor="scanpath/delta", rule="less", patience=30)]
