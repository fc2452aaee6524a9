# For testing: PF-WILLOW with the weights of cats_r101_b32-100e_pf-pascal.py.
_base_ = "cats_r101_b32-100e_pf-pascal.py"

willow_root = "data/PF-WILLOW"
test_dataloader = dict(dataset=dict(type="PFWillow", data_root=willow_root))
