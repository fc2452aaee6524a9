# The three last stages of Swin-L (ImageNet-22K, 384 x 384); all else as with the ResNet.
_base_ = "relation-detr_r50_8xb2-12e_coco.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="SwinTransformer",
        pretrain_img_size=384,
        embed_dims=192,
        depths=[2, 2, 18, 2],
        num_heads=[6, 12, 24, 48],
        window_size=12,
        drop_path_rate=0.2,
        out_indices=(1, 2, 3),
        with_cp=True,
        convert_weights=True,
        # https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_large_patch4_window12_384_22k.pth
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/swin_large_patch4_window12_384_22k.pth"),
    ),
    neck=dict(in_channels=[384, 768, 1536]),
)
