# The published recipe on PF-PASCAL. data_root has the tables of pairs, JPEGImages and Annotations.
_base_ = "cats_r101_b32-100e_spair-71k.py"

data_root = "data/PF-PASCAL"
train_dataloader = dict(dataset=dict(type="PFPascal", data_root=data_root))
val_dataloader = dict(dataset=dict(type="PFPascal", data_root=data_root))
test_dataloader = dict(dataset=dict(type="PFPascal", data_root=data_root))
