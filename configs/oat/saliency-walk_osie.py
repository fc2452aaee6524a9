# Fixations by the spectral residual of each photograph. Nothing to train.
_base_ = "oat-small_osie.py"

model = dict(
    _delete_=True,
    type="SaliencyWalk",
    train=dict(type="OSIE", data_root=_base_.data_root, split="train"),
    num_paths=15,
    seed=0,
)
