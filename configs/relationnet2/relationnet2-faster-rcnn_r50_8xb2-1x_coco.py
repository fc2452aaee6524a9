# Faster R-CNN with bridged proposals on COCO. The paper reports one, but its settings were not published: how
# proposals are bridged (dense.BVRRoIHead) is our choice, and so is base_size; the rest is MMDetection's.
_base_ = "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["dense.detection"], allow_failed_imports=False)

model = dict(roi_head=dict(type="dense.BVRRoIHead", bvr=dict(base_size=(400, 400))))
