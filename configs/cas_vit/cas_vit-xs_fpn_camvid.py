# With published weights add norm_eval=True to the backbone, as the published dense networks have it.
_base_ = [
    "../_base_/models/fpn_camvid.py",
    "../_base_/datasets/camvid.py",
    "../_base_/schedules/adamw_20k_fpn.py",
    "../_base_/runtimes/mmseg.py",
]

model = dict(
    backbone=dict(_delete_=True, type="dense.CASViT", arch="xs", drop_path_rate=0.1),
    neck=dict(in_channels=[48, 56, 112, 220]),
)
