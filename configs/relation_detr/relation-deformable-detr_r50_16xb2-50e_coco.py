# MMDetection's Deformable DETR (two stages, refined boxes) with the position relation.
_base_ = "mmdet::deformable_detr/deformable-detr-refine-twostage_r50_16xb2-50e_coco.py"
custom_imports = dict(imports=["dense.detection"], allow_failed_imports=False)

model = dict(type="dense.RelationDeformableDETR", decoder=dict(relation_encoder=dict(embed_dims=16)))
