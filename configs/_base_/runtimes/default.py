# What every run shares. The runner adds hooks of its own: the dataset's epoch, the check of the loss, the
# progress bar and the checkpoint on Ctrl-C (DEFAULT_HOOKS in pointsuite/engine/runner/runner.py).
#
# What a config can switch on, all of it compatible with --resume:
#   sync_bn = "torch"                                          several processes share batch statistics
#   optim_wrapper = dict(type="AmpOptimWrapper")               mixed precision in bfloat16 (or --amp)
#   optim_wrapper = dict(accumulative_counts=4)                one step for every 4 batches
#   custom_hooks = [dict(type="EMAHook", momentum=2e-4)]       validate and save averaged weights, too
#   compile = True, or dict(backend=..., mode=...)             torch.compile of the network, not of geometry
default_scope = "pointsuite"

default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=10),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="CheckpointHook", interval=1, max_keep_ckpts=2),
    sampler_seed=dict(type="DistSamplerSeedHook"),
)

env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),  # gloo on a machine without GPU
)
randomness = dict(seed=0)

log_level = "INFO"
log_processor = dict(by_epoch=True, window_size=10)
visualizer = dict(
    type="Visualizer", vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")]
)

load_from = None
resume = False
