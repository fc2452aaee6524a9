# SA-Det-100k, boxes of SA-1B without classes, as COCO json with one category.
_base_ = "relation-detr_r50_8xb2-12e_coco.py"

model = dict(bbox_head=dict(num_classes=1))

data_root = "data/sa_det_100k/"
metainfo = dict(classes=("object",), palette=[(220, 20, 60)])
train_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        ann_file="annotations/train.json",
        data_prefix=dict(img="train/"),
        metainfo=metainfo,
    )
)
val_dataloader = dict(
    dataset=dict(
        data_root=data_root, ann_file="annotations/val.json", data_prefix=dict(img="val/"), metainfo=metainfo
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + "annotations/val.json")
test_evaluator = val_evaluator
