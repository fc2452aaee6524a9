# A plain vision Transformer trained on five of the ten classes of photographs: what the other configs tune.
_base_ = "../_base_/recipes/cifar10_photos_deit-xs.py"

metainfo = dict(classes=["airplane", "automobile", "bird", "cat", "deer"])
train_dataloader = dict(dataset=dict(metainfo=metainfo))
test_dataloader = dict(dataset=dict(metainfo=metainfo))
val_dataloader = test_dataloader
test_evaluator = dict(type="TopK", topk=(1,))
val_evaluator = test_evaluator
model = dict(num_classes=5)
train_cfg = dict(val_interval=5)
