# UFC with a small backbone and two levels, grids of 8 and 16 cells.
_base_ = [
    "../_base_/models/resnet18-half.py",
    "../_base_/datasets/warps_pf-willow.py",
    "../_base_/schedules/adamw_12e.py",
    "../_base_/runtimes/matching.py",
]

model = dict(
    type="DenseMatcher",
    network=dict(
        type="UFC",
        backbone={{_base_.backbone}},
        embed_dims=64,
        attention_dims=64,
        num_heads=4,
        cost_side=8,
        depths=1,
    ),
)
