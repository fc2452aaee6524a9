# Nested lists of digits, made by a grammar: those of Long Range Arena have max_depth 10, max_arguments 10 and
# 500 to 2,000 tokens (the defaults of the data set); these are shorter, so that a CPU can learn them.
bounds = dict(max_depth=4, max_arguments=5, min_tokens=8, max_tokens=63, seed=0)

train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(type="ListOps", split="train", length=64_000, **bounds),
)
test_dataloader = dict(
    batch_size=64,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="ListOps", split="test", length=1000, test_mode=True, **bounds),
)
val_dataloader = test_dataloader
test_evaluator = [dict(type="TokenAccuracy"), dict(type="TokenLikelihood", unit="answer")]
val_evaluator = test_evaluator
