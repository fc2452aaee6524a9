# A small network on OSIE, for CPUs: the objects are the cells of a grid, and nobody searches for any, so that
# the token of the target stands for the end of a path alone. 15 paths are drawn for each photograph.
_base_ = [
    "../_base_/datasets/osie.py",
    "../_base_/schedules/adamw_12e.py",
    "../_base_/runtimes/gaze.py",
]

model = dict(
    type="ScanpathModel",
    network=dict(
        type="OAT",
        arch=dict(
            grid=_base_.grid,
            embed_dims=128,
            depth=2,
            num_heads=4,
            ffn_dims=256,
            readout_heads=2,
            key_dims=128,
            pyramid=2,
            table=(11, 22),
        ),
    ),
    max_length=22,
    num_paths=15,
    data_preprocessor=dict(type="ScaleObjects", scale="unit"),
)
