# Matching learnt on a CPU without any label: pictures and what a random warp makes of them, 128 x 128 pixels.
# All weights begin at random. Validated on warped pictures of BSD68, tested on PF-WILLOW, of which nothing is
# used in training.
#
# data_root has the folders named below; --cfg-options data_root=DIR for another place.
_base_ = "default_runtime.py"

default_scope = "dense"
data_root = "data"
size = 128
max_epochs = 12

backbone = dict(  # half the channels of ResNet-18, maps of strides 8 and 16
    type="mmdet.ResNet",
    depth=18,
    base_channels=32,
    num_stages=3,
    norm_eval=False,
    strides=(1, 2, 2),
    dilations=(1, 1, 1),
    out_indices=(1, 2),
)

warp_pipeline = [
    dict(type="LoadImage"),
    dict(type="RandomResizedCrop", size=size, area=(0.25, 1.0), interpolation="bilinear"),
    dict(type="RandomWarp"),
    dict(type="RandomPhotometric"),
    dict(type="PackPair"),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="ImageFiles",
        data_root=data_root,
        folders=["camvid/train", "pennfudan/images", "restoration/T91"],
        seed=0,
        pipeline=warp_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="ImageFiles",
        data_root=data_root,
        folders=["restoration/BSD68"],
        test_mode=True,
        pipeline=warp_pipeline,
    ),
)
test_dataloader = dict(
    batch_size=10,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="PFWillow",
        data_root=data_root,
        folder="pf_willow",
        test_mode=True,
        pipeline=[dict(type="LoadPair"), dict(type="ResizePair", size=size), dict(type="PackPair")],
    ),
)
val_evaluator = dict(type="FlowError")
test_evaluator = dict(type="PCK", alphas=(0.05, 0.1, 0.15))

# The last epoch is what counts; nothing is chosen on the test pairs.
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=3)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, begin=0, end=1, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", begin=1, end=max_epochs, T_max=max_epochs - 1, convert_to_iter_based=True),
]
default_hooks = dict(logger=dict(interval=10))
visualizer = dict(type="MatchVisualizer")
