# Photographs of 32 x 32 pixels made 16 x 16, as sequences of 768 bytes: DIR/train/CLASS/*.jpg and
# DIR/test/CLASS/*.jpg, of which every tenth is tested. `--cfg-options data_root=DIR` reaches both sets.
data_root = "data/cifar10_jpeg"
side = 16

train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(type="PixelSequences", data_root=data_root, split="train", side=side, seed=0),
)
test_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="PixelSequences", data_root=data_root, split="test", side=side, every=10, test_mode=True
    ),
)
val_dataloader = test_dataloader
test_evaluator = dict(type="TokenLikelihood", unit="dimension")
val_evaluator = test_evaluator
