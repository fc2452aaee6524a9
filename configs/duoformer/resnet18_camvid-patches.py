# Half a ResNet-18 on patches of street scenes: what duoformer_camvid-patches.py is compared to. From random
# weights, for CPUs.
_base_ = [
    "../_base_/datasets/camvid_patches.py",
    "../_base_/schedules/adamw_12e.py",
    "../_base_/runtimes/dense.py",
]

model = dict(
    type="ImageClassifier",
    backbone=dict(type="ResNet", arch=dict(embed_dims=(32, 64, 128, 256), depths=(2, 2, 2, 2), expansion=1)),
    num_classes=7,
    label_smoothing=0.1,
)
