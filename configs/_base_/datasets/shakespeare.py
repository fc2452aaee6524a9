# "Tiny Shakespeare": 1.1 MB of plays in one file, by characters (65 of them), the last tenth held out.
# `--cfg-options data_root=DIR` reaches all data sets.
data_root = "data/sequence"
file = "tinyshakespeare.txt"
context = 64

train_dataloader = dict(
    batch_size=12,
    num_workers=0,
    sampler=dict(type="InfiniteSampler", shuffle=False),
    dataset=dict(
        type="TextWindows",
        data_root=data_root,
        file=file,
        split="train",
        context=context,
        length=24_000,
        seed=0,
    ),
)
test_dataloader = dict(
    batch_size=64,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="TextWindows", data_root=data_root, file=file, split="val", context=context, test_mode=True
    ),
)
val_dataloader = test_dataloader
test_evaluator = dict(type="TokenLikelihood", unit="character")
val_evaluator = test_evaluator
