# RISurConv on ScanObjectNN PB_T50_RS, as published: 2048 points, 1024 of them by farthest point sampling, no
# normalisation, normals from the 32 nearest points, the order of the points as the only augmentation.
# `tools/prepare_dataset.py scanobjectnn` stores outward normals; with `--orient none` they are as published,
# of arbitrary sign. To test under rotation, estimate them after it: `EstimateNormals` in the test pipeline.
_base_ = "risurconv_modelnet40.py"

data_file = "data/scanobjectnn.h5"

model = dict(network=dict(num_classes=15, width=1))
train_dataloader = dict(
    batch_size=16,
    dataset=dict(data_file=data_file, pipeline=[dict(type="ShufflePoints"), dict(type="PackPoints")]),
)
test_dataloader = dict(batch_size=16, dataset=dict(data_file=data_file, pipeline=[dict(type="PackPoints")]))
val_dataloader = test_dataloader
