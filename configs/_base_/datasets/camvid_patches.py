# Patches of CamVid's street scenes in folders of classes, as made by
# `python tools/prepare_dataset.py camvid-patches --root CAMVID --out data/camvid_patches`: each has the class
# of most of its pixels. `--cfg-options data_root=DIR` reaches all sets, so does `scale`, the width and height
# that networks see. A patch that its network should see larger is enlarged.
_base_ = "cifar10_photos.py"

data_root = "data/camvid_patches"
scale = (96, 96)

train_dataloader = dict(
    batch_size=64,
    dataset=dict(
        pipeline=[
            dict(type="LoadImage"),
            dict(type="Resize", scale=scale),
            dict(type="RandomFlip", prob=0.5),
            dict(type="PackImage"),
        ]
    ),
)
val_dataloader = dict(batch_size=64, dataset=dict(split="val"))
test_dataloader = dict(batch_size=64)
val_evaluator = [dict(type="TopK", topk=(1,)), dict(type="BalancedAccuracy", by_class=True)]
test_evaluator = val_evaluator
