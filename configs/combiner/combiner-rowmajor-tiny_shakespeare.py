_base_ = "../_base_/recipes/shakespeare.py"

# a narrower MLP pays for the two layers that make keys of rows
model = dict(
    network=dict(
        type="Combiner",
        arch=dict(embed_dims=128, depth=4, num_heads=4, mlp_ratio=3.0),
        factorization="rowmajor",
        segment=8,
    )
)
