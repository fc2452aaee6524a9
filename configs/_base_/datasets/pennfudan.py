# Penn-Fudan pedestrians, 136 images to train and 34 to test, with COCO's annotations of one class, person.
# `--cfg-options data_root=DIR` reaches all data sets. Images are small, for CPUs: 352 x 256 pixels at most.
custom_imports = dict(imports=["dense.detection"])

data_root = "data/pennfudan"

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="RandomResize", scale=[(352, 192), (352, 256)], keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(352, 256), keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True),
    # `instances`: the metric takes the boxes from the samples, so that it needs no path of its own
    dict(
        type="PackDetInputs",
        meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "instances"),
    ),
]

metainfo = dict(classes=("person",), palette=[(220, 20, 60)])
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=True),
    batch_sampler=dict(type="AspectRatioBatchSampler"),
    dataset=dict(
        type="CocoDataset",
        data_root=data_root,
        ann_file="instances_train.json",
        data_prefix=dict(img="images/"),
        metainfo=metainfo,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="CocoDataset",
        data_root=data_root,
        ann_file="instances_val.json",
        data_prefix=dict(img="images/"),
        metainfo=metainfo,
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(type="CocoMetric", metric="bbox")
test_evaluator = val_evaluator
