# MMDetection's DAB-DETR with the position relation.
_base_ = "mmdet::dab_detr/dab-detr_r50_8xb2-50e_coco.py"
custom_imports = dict(imports=["dense.detection"], allow_failed_imports=False)

model = dict(type="dense.RelationDABDETR", decoder=dict(relation_encoder=dict(embed_dims=16)))
