# What the others are measured against: a language model that sees 6 x 6 vision tokens of a mosaic, each made
# of 2 x 2 cells, and never looks again. For CPUs: minutes. `encoder` is a checkpoint of encoder_cifar10.py;
# all parts are trained jointly.
_base_ = "../_base_/runtimes/dense.py"

data_root = "data/cifar10_jpeg"
encoder = "work_dirs/encoder_cifar10/epoch_5.pth"
max_epochs = 3

model = dict(
    type="PictureAnswerer",
    network=dict(
        type="VisionRemember",
        arch=dict(
            vision=dict(
                type="DHVT",
                arch=dict(embed_dims=96, depth=4, num_heads=3, patch_size=8, img_size=32, num_classes=10),
                drop_path_rate=0.0,
                out_indices=(1, 2, 3),
                output_norm=False,
                init_cfg=dict(type="Pretrained", checkpoint=encoder, prefix="backbone."),
            ),
            language=dict(
                type="Transformer",
                arch=dict(embed_dims=96, depth=4, num_heads=4, mlp_ratio=2.0),
                positions="rotary",
            ),
        ),
        memory="none",
        ratio=2,
    ),
)

train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="Mosaics",
        data_root=data_root,
        split="train",
        length=1000,
        seed=0,
        pipeline=[
            dict(type="ComposeMosaic", flip=0.5),
            dict(type="AskQuestions", count=9),
            dict(type="PackMosaic"),
        ],
    ),
)
test_dataloader = dict(
    batch_size=16,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="Mosaics",
        data_root=data_root,
        split="test",
        length=400,
        seed=1,
        test_mode=True,
        pipeline=[
            dict(type="ComposeMosaic"),
            dict(type="AskQuestions", count=9),
            dict(type="PackMosaic"),
        ],
    ),
)
val_dataloader = test_dataloader
test_evaluator = dict(type="AnswerAccuracy")
val_evaluator = test_evaluator
val_cfg = dict()
test_cfg = dict()

# The last epoch is what counts; nothing is chosen on the test's mosaics.
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=max_epochs)
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=3e-3, weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.0, bias_decay_mult=0.0, custom_keys={"network.vision": dict(lr_mult=0.1)}
    ),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=30),
    dict(
        type="CosineAnnealingLR",
        begin=0,
        end=max_epochs,
        T_max=max_epochs,
        convert_to_iter_based=True,
    ),
]
