# The published recipe on CUHK Avenue, in colour. data_root: a folder with training_videos, testing_videos and
# testing_label_mask (see the README). Frames decoded from the videos are kept in memory, 3 GB of them for the
# training: with less, clips in random order are decoded again and again.
_base_ = "vad-hybrid_ped2.py"

data_root = "data/avenue"

model = dict(network=dict(in_channels=3))
train_dataloader = dict(
    num_workers=1, dataset=dict(type="Avenue", data_root=data_root, color="rgb", cache_mb=3072)
)
val_dataloader = dict(num_workers=1, dataset=dict(type="Avenue", data_root=data_root, color="rgb"))
test_dataloader = dict(num_workers=1, dataset=dict(type="Avenue", data_root=data_root, color="rgb"))
