_base_ = "../_base_/recipes/cifar10_bytes.py"

# segments are the rows of the image
model = dict(
    network=dict(
        type="Combiner",
        arch="tiny",
        factorization="fixed",
        segment=48,
        positions="learned",
        tied=True,
    )
)
