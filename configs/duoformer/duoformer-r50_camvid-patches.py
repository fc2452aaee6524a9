# The published recipe as far as it is known, on patches of street scenes instead of tissue: the best network
# (4 scales, 8 blocks) over a frozen ResNet-50, Adam at 1e-4. The ResNet has the weights of pytorch/vision,
# converted by `python tools/convert_checkpoint.py resnet50.pth checkpoints/resnet_50.pth`.
_base_ = "resnet18_camvid-patches.py"

max_epochs = 30
scale = (224, 224)

model = dict(
    backbone=dict(
        _delete_=True,
        type="DuoFormer",
        arch="r50_s4_channel_d8",
        freeze_backbone=True,
        backbone_init_cfg=dict(type="Pretrained", checkpoint="checkpoints/resnet_50.pth", prefix="backbone."),
    ),
    label_smoothing=0.0,
)

train_dataloader = dict(batch_size=6)
optim_wrapper = dict(_delete_=True, optimizer=dict(type="Adam", lr=1e-4, weight_decay=1e-4))
param_scheduler = [
    dict(
        type="OneCycleLR",
        eta_max=1e-4,
        total_steps=max_epochs,
        convert_to_iter_based=True,
    )
]
