# dino_r18_pennfudan.py with the position relation, and nothing else of Relation-DETR.
_base_ = "dino_r18_pennfudan.py"
custom_imports = dict(imports=["dense.detection"], allow_failed_imports=False)

model = dict(type="dense.RelationDINO", decoder=dict(relation_encoder=dict(embed_dims=16)))
