# Convolutions and CBAM on photographs of 32 pixels: half the width, a halving less, 17 million products an
# image.
_base_ = "../_base_/recipes/cifar10_photos.py"

max_epochs = 3
model = dict(
    backbone=dict(
        type="EuroSATNet",
        arch=dict(
            design="attention",
            embed_dims=(16, 32, 64, 128, 256, 256),
            depths=(2, 2, 2, 2, 2, 0),
            hidden_dims=128,
            img_size=0,
            drop_block=(0, 0, 0, 0, 0, 0),
        ),
    ),
)
test_evaluator = [dict(type="TopK", topk=(1,)), dict(type="Agreement"), dict(type="ConfidenceGap")]
