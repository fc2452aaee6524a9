# Balanced attention on photographs of 32 pixels: a quarter of the width, a block a stage, 16 million products
# an image. DropBlock's squares are of 3 pixels of 32, as 7 are of 64.
_base_ = "../_base_/recipes/cifar10_photos.py"

max_epochs = 3
model = dict(
    backbone=dict(
        type="EuroSATNet",
        arch=dict(
            design="balanced",
            embed_dims=(16, 32, 64, 128),
            depths=(1, 1, 1, 1),
            hidden_dims=0,
            img_size=0,
            drop_block=(0.05, 0.1, 0.15, 0.2),
        ),
        block_size=3,
    ),
)
test_evaluator = [dict(type="TopK", topk=(1,)), dict(type="Agreement"), dict(type="ConfidenceGap")]
