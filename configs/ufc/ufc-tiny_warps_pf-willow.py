# UFC with a small backbone and two levels, grids of 8 and 16 cells.
_base_ = "../_base_/matching-small.py"

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
