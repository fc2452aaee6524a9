# The published recipe on ShanghaiTech Campus, in colour. data_root: the archive's folder; its training videos
# are best taken apart into training/frames/NAME/*.jpg, for clips in random order are slow to seek in files.
_base_ = "vad-hybrid_ped2.py"

data_root = "data/shanghaitech"

model = dict(network=dict(in_channels=3))
train_dataloader = dict(dataset=dict(type="ShanghaiTech", data_root=data_root, color="rgb"))
val_dataloader = dict(dataset=dict(type="ShanghaiTech", data_root=data_root, color="rgb"))
test_dataloader = dict(dataset=dict(type="ShanghaiTech", data_root=data_root, color="rgb"))
