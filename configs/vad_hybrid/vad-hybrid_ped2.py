# The published recipe on UCSD Ped2: grey frames of 256 x 256, one clip a step, up to 20 epochs. The published
# validation takes clips at random, which overlap those of the training; here whole training videos are held
# out. The epoch with the least loss on them is kept as best_*.pth; the published run also stops after ten
# epochs without a better one, which saves time only.
#
# data_root: the archive's folder UCSDped2 (see the README).
_base_ = "../_base_/runtimes/dense.py"

data_root = "data/UCSDped2"

model = dict(type="FramePredictor", network=dict(type="VADHybrid", arch="base", in_channels=1))

train_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="UCSDPed",
        data_root=data_root,
        split="train",
        size=256,
        color="grey",
        hold_out=0.1,
        part="train",
        seed=0,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="UCSDPed",
        data_root=data_root,
        split="train",
        size=256,
        color="grey",
        hold_out=0.1,
        part="held_out",
        test_mode=True,
    ),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="UCSDPed", data_root=data_root, split="test", size=256, color="grey", test_mode=True),
)
val_evaluator = dict(type="FrameAUC")  # normal videos alone: the loss and the PSNR
test_evaluator = dict(type="FrameAUC", targets="middle", error="frame", smoothing=0.0, dump=None)

train_cfg = dict(by_epoch=True, max_epochs=20, val_interval=1)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type="Adam", lr=1e-3, betas=(0.9, 0.98), eps=1e-9))
param_scheduler = dict(type="ReduceOnPlateauLR", monitor="frame/loss", rule="less", factor=0.5, patience=2)
default_hooks = dict(
    logger=dict(interval=50), checkpoint=dict(save_best="frame/loss", rule="less", max_keep_ckpts=2)
)
visualizer = dict(type="VideoVisualizer")
