# RISurConv's part segmenter on ShapeNetPart, as published: unit sphere, then 2048 points, drawn when the file
# was made (`tools/prepare_dataset.py shapenetpart --num-points 2048 --sampling published`); scale and shift.
_base_ = "risurconv_modelnet40.py"

data_file = "data/shapenetpart.h5"

model = dict(
    _delete_=True,
    type="PointCloudPartSegmenter",
    network=dict(type="RISurConvPartSegmenter", num_parts=50, num_categories=16),
)
train_pipeline = [
    dict(type="RandomScale", low=0.8, high=1.25),
    dict(type="RandomShift", max_shift=0.1),
    dict(type="PackPoints"),
]
train_dataloader = dict(
    batch_size=16, dataset=dict(data_file=data_file, split="trainval", pipeline=train_pipeline)
)
test_dataloader = dict(batch_size=16, dataset=dict(data_file=data_file, pipeline=[dict(type="PackPoints")]))
val_dataloader = test_dataloader

# The 50 parts are numbered through category by category.
_counts = dict(
    Airplane=4,
    Bag=2,
    Cap=2,
    Car=4,
    Chair=4,
    Earphone=3,
    Guitar=3,
    Knife=2,
    Lamp=4,
    Laptop=2,
    Motorbike=6,
    Mug=2,
    Pistol=3,
    Rocket=3,
    Skateboard=3,
    Table=3,
)
_ends = [sum(list(_counts.values())[: i + 1]) for i in range(len(_counts))]
test_evaluator = dict(
    _delete_=True,
    type="PartIoU",
    category_parts={
        name: list(range(end - count, end)) for (name, count), end in zip(_counts.items(), _ends, strict=True)
    },
)
val_evaluator = test_evaluator

train_cfg = dict(max_epochs=250)
# 1e-3 * 0.5 ** (epoch // 20), at least 1e-5.
param_scheduler = [dict(type="MultiStepLR", milestones=[20, 40, 60, 80, 100, 120], gamma=0.5)]
custom_hooks = [
    dict(type="SetLearningRateHook", rates={140: 1e-5}),
    dict(type="BatchNormMomentumHook", start=0.1, gamma=0.5, step=20, least=0.01),
]
