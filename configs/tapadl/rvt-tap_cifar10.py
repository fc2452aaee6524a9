# A small RVT with token-aware average pooling (TAP) on photographs of 32 pixels, enlarged to 96: 6 x 6
# tokens.
_base_ = "../_base_/recipes/cifar10_photos.py"

scale = (96, 96)
max_epochs = 2

model = dict(
    backbone=dict(
        type="RVT",
        arch=dict(embed_dims=(64,), depths=(4,), num_heads=(2,), num_masked=0, mlp_ratio=4.0),
        drop_path_rate=0.0,
    ),
)
