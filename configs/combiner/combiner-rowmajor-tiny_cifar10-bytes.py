_base_ = "../_base_/recipes/cifar10_bytes.py"

# rows are those of the image; a narrower MLP pays for the two layers that make keys of rows
model = dict(
    network=dict(
        type="Combiner",
        arch=dict(embed_dims=128, depth=4, num_heads=4, mlp_ratio=3.0),
        factorization="rowmajor",
        segment=48,
        positions="learned",
        tied=True,
    )
)
