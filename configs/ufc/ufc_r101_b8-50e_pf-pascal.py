# data_root has the tables of pairs, JPEGImages and Annotations.
_base_ = "ufc_r101_b8-50e_spair-71k.py"

data_root = "data/PF-PASCAL"
train_dataloader = dict(dataset=dict(type="PFPascal", data_root=data_root))
val_dataloader = dict(dataset=dict(type="PFPascal", data_root=data_root))
test_dataloader = dict(dataset=dict(type="PFPascal", data_root=data_root))
