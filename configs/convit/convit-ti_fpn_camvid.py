_base_ = [
    "../_base_/models/fpn_tokens_camvid.py",
    "../_base_/datasets/camvid.py",
    "../_base_/schedules/adamw_20k_fpn.py",
    "../_base_/runtimes/mmseg.py",
]

model = dict(
    backbone=dict(
        _delete_=True,
        type="dense.ConViT",
        arch="tiny",
        img_size=(352, 480),
        out_indices=(2, 5, 8, 11),
        drop_path_rate=0.1,
    ),
)
