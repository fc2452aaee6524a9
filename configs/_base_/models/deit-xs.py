# A plain vision Transformer (DeiT) of 0.7 million parameters for photographs of 32 pixels, in 8 x 8 patches.
deit_xs = dict(
    type="ViT",
    arch=dict(
        embed_dims=96,
        depth=6,
        num_heads=3,
        patch_size=4,
        img_size=32,
        mlp="mlp",
        layer_scale_init=0.0,
        num_registers=0,
        distillation=False,
        antialias=True,
        scale_offset=0.0,
    ),
)
