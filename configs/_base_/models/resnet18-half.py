# Half the channels of ResNet-18, maps of strides 8 and 16: a backbone for CPUs, from random weights.
backbone = dict(
    type="mmdet.ResNet",
    depth=18,
    base_channels=32,
    num_stages=3,
    norm_eval=False,
    strides=(1, 2, 2),
    dilations=(1, 1, 1),
    out_indices=(1, 2),
)
