# A small RISurConv that finds the parts of the bundled shapes. It is told the class, as networks are told the
# category of ShapeNetPart. The parts come from the materials of the models: where two differ in colour alone,
# as the plastic of connectors does, no shape tells them apart.
_base_ = "../_base_/default_runtime.py"

data_file = "{{fileDirname}}/../../data/kicad/kicad.h5"
max_epochs = 30

model = dict(
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
    num_workers=0,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="PointCloudDataset",
        data_file=data_file,
        split="train",
        seed=0,
        pipeline=[
            # All points, as in testing: from 1024 on, the network compares neighbours two slots apart.
            dict(type="ShufflePoints"),
            dict(type="NormalizeUnitSphere"),
            dict(type="RandomScale", low=0.8, high=1.2),
            dict(type="PackPoints"),
        ],
    ),
)
test_dataloader = dict(
    batch_size=32,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="PointCloudDataset",
        data_file=data_file,
        split="test",
        test_mode=True,
        pipeline=[dict(type="NormalizeUnitSphere"), dict(type="PackPoints")],
    ),
)
val_dataloader = test_dataloader
# The parts that a class has in the training split (0 metal, 1 body, 2 marking or ceramic, 3 glass or LED).
test_evaluator = dict(
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

# The last epoch is what counts; nothing is chosen on the test split.
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=10)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=2e-3, weight_decay=0.01),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.04, begin=0, end=2, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", begin=2, end=max_epochs, T_max=max_epochs - 2, convert_to_iter_based=True),
]
