# Each target as the frame before it in the clip: what a network has to beat. Nothing to train, no checkpoint.
_base_ = "vad-hybrid_ped2.py"

model = dict(network=dict(_delete_=True, type="CopyPrevious"))
