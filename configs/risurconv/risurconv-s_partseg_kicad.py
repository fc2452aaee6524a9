# A small RISurConv that finds the parts of the bundled shapes. It is told the class, as networks are told the
# category of ShapeNetPart. The parts come from the materials of the models: where two differ in colour alone,
# as the plastic of connectors does, no shape tells them apart.
_base_ = "risurconv-s_kicad.py"

max_epochs = 10

model = dict(
    _delete_=True,
    type="PointCloudPartSegmenter",
    network=dict(
        type="RISurConvPartSegmenter",
        num_parts=4,
        num_categories=10,
        centres=(256, 128, 64, 32),
        neighbours=(8, 16, 16, 32),
        channels=(32, 64, 128, 256),
        up_neighbours=(16, 16, 16, 16),
        up_channels=(256, 128, 128, 64),
        mlp_channels=((128,), (128,), (64,), ()),
        embed_channels=32,
        head_dims=(64,),
    ),
)

train_dataloader = dict(
    batch_size=16,
    dataset=dict(
        pipeline=[
            # All points, as in testing: from 1024 on, the network compares neighbours two slots apart.
            dict(type="ShufflePoints"),
            dict(type="NormalizeUnitSphere"),
            dict(type="RandomScale", low=0.8, high=1.2),
            dict(type="PackPoints"),
        ]
    ),
)

# The parts that a class has in the training split (0 metal, 1 body, 2 marking or ceramic, 3 glass or LED).
test_evaluator = dict(
    _delete_=True,
    type="PartIoU",
    category_parts=dict(
        pin_header=(0, 1),
        pin_socket=(0, 1),
        wire_connector=(0, 1, 2),
        pluggable_terminal=(0, 1),
        dip=(0, 1),
        so=(0, 1, 2),
        dfn_qfn_lga=(0, 1, 2),
        standoff_mounting=(0,),
        axial_tht=(0, 1, 2, 3),
        chip_2term_smd=(0, 1, 2, 3),
    ),
)
val_evaluator = test_evaluator

train_cfg = dict(max_epochs=max_epochs, val_interval=5)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.04, begin=0, end=1, convert_to_iter_based=True),
    dict(
        type="CosineAnnealingLR",
        begin=1,
        end=max(max_epochs, 2),
        T_max=max(max_epochs - 1, 1),
        convert_to_iter_based=True,
    ),
]
