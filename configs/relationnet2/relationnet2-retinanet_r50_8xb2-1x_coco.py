# RetinaNet with bridged key points on COCO, ResNet-50, the published 1x schedule: 8 GPUs with 2 images each.
_base_ = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["dense.detection"], allow_failed_imports=False)

norm_cfg = dict(type="GN", num_groups=32, requires_grad=True)
model = dict(
    neck=dict(norm_cfg=norm_cfg),
    bbox_head=dict(type="dense.BVRRetinaHead", norm_cfg=norm_cfg, bvr=dict(base_size=(400, 400))),
)
