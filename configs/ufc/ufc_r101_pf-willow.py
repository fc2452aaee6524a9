# For testing: PF-WILLOW with the weights of ufc_r101_b8-50e_pf-pascal.py.
_base_ = "ufc_r101_b8-50e_pf-pascal.py"

willow_root = "data/PF-WILLOW"
test_dataloader = dict(dataset=dict(type="PFWillow", data_root=willow_root))
