# Fixations of the training at random: what a network that looks at pictures has to beat. Nothing to train.
_base_ = "oat-small_osie.py"

model = dict(
    _delete_=True,
    type="CentreWalk",
    train=dict(type="OSIE", data_root=_base_.data_root, split="train"),
    num_paths=15,
    seed=0,
)
