# Photographs of 32 x 32 pixels: six of the ten classes are known, one of the others is a surrogate for
# unknown ones, three are unknown. `--cfg-options class_seed=1` draws others, data_root=DIR reaches all sets.
# Nine tenths of each class's training files train; the last tenth chooses thresholds.
data_root = "data/cifar10_jpeg"
class_seed = 0
num_known = 6
num_surrogate = 1
trained, held_out = (0.0, 0.9), (0.9, 1.0)

classes = dict(
    type="OpenSetFolder",
    data_root=data_root,
    num_known=num_known,
    num_surrogate=num_surrogate,
    class_seed=class_seed,
)
train_dataloader = dict(
    batch_size=128,
    num_workers=0,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        **classes,
        split="train",
        share=trained,
        seed=0,
        pipeline=[
            dict(type="LoadImage"),
            dict(type="RandomPadCrop", size=32, padding=4),
            dict(type="RandomFlip", prob=0.5),
            dict(type="PackImage"),
        ],
    ),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        **classes,
        split="train",
        share=held_out,
        test_mode=True,
        pipeline=[dict(type="LoadImage"), dict(type="PackImage")],
    ),
)
test_dataloader = dict(
    batch_size=128,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        **classes,
        split="test",
        part="test",
        test_mode=True,
        pipeline=[dict(type="LoadImage"), dict(type="PackImage")],
    ),
)
val_evaluator = dict(type="TopK", topk=(1,))
test_evaluator = dict(type="OpenSetMetric")
val_cfg = dict()
test_cfg = dict()
open_set = dict(
    known=dict(**classes, split="test"),
    unknown=dict(classes=dict(**classes, split="test", part="unknown")),
    validation=dict(**classes, split="train", share=held_out),
    surrogate=dict(**classes, split="train", share=held_out, part="surrogate"),
)
