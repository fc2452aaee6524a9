# The baseline on photographs of 32 pixels: 11 million products an image.
_base_ = "../_base_/recipes/cifar10_photos.py"

max_epochs = 3
model = dict(
    backbone=dict(
        type="EuroSATNet",
        arch=dict(
            design="baseline",
            embed_dims=(32, 64, 128),
            depths=(1, 1, 1),
            hidden_dims=256,
            img_size=32,
            drop_block=(0, 0, 0),
        ),
    ),
)
test_evaluator = [dict(type="TopK", topk=(1,)), dict(type="Agreement"), dict(type="ConfidenceGap")]
