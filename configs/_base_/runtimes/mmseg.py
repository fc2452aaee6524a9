# What every run of MMSegmentation shares: default.py, counted in iterations. Its batch norms (SyncBN)
# are plain ones in one process; in several they share their statistics, on CPUs, too. A resumed run equals an
# unbroken one if num_workers is 0; data workers, which augment, start their random numbers again.
_base_ = "default.py"

default_scope = "mmseg"

default_hooks = dict(
    logger=dict(interval=50, log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=2000),
)
log_processor = dict(by_epoch=False, window_size=50)
visualizer = dict(type="SegLocalVisualizer", alpha=0.6)
