# Each target as the mean of the frames before and after it in the clip. Nothing to train, no checkpoint.
_base_ = "vad-hybrid_ped2.py"

model = dict(network=dict(_delete_=True, type="MeanOfNeighbours"))
