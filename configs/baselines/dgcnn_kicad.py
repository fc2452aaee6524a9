# DGCNN with half the published widths and neighbours.
_base_ = "../risurconv/risurconv-s_kicad_z.py"

model = dict(
    network=dict(
        _delete_=True,
        type="DGCNNClassifier",
        num_classes=10,
        k=10,
        channels=(32, 32, 64, 128),
        embed_channels=512,
        head_dims=(256, 128),
    )
)
