# RetinaNet on COCO, MMDetection's 1x schedule, with ELA-B in the blocks of its own ResNet-50 of ImageNet
# weights; only the new layers start at random.
_base_ = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["dense"], allow_failed_imports=False)

model = dict(backbone=dict(plugins=[dict(cfg=dict(type="dense.ELA", variant="B"), position="after_conv3")]))
