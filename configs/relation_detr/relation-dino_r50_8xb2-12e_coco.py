# MMDetection's DINO with the position relation, and nothing else of Relation-DETR.
_base_ = "mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py"
custom_imports = dict(imports=["dense.detection"], allow_failed_imports=False)

model = dict(type="dense.RelationDINO", decoder=dict(relation_encoder=dict(embed_dims=16)))
