# A small RetinaNet with bridged key points, for CPUs; retinanet_r18_pennfudan.py is the same without.
_base_ = "retinanet_r18_pennfudan.py"

# images are at most 352 pixels long, so that offsets are at most 44 units of 8 pixels
model = dict(
    bbox_head=dict(
        type="dense.BVRRetinaHead",
        bvr=dict(base_size=(96, 96), keypoint_head=dict(norm_cfg=dict(type="GN", num_groups=16))),
    )
)
