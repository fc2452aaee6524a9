"""Videos of a square that moves on, and jumps where it is abnormal; a tiny network; a config of both."""

import json
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from torch import nn

from dense.registry import MODELS

REPOSITORY = Path(__file__).parents[3]
LENGTH, SIDE = 24, 16
ABNORMAL = range(11, 17)
CONFIG = f"""
_base_ = "{REPOSITORY}/configs/vad_hybrid/vad-hybrid_ped2.py"
custom_imports = dict(imports=["tests.dense.video.toy"])
data_root = "data"
model = dict(network=dict(_delete_=True, type="ToyPredictor"))
clips = dict(size=16, offsets=range(9), data_root=data_root)
train_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(hold_out=0.34, **clips)
)
val_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(hold_out=0.34, **clips)
)
test_dataloader = dict(batch_size=3, num_workers=0, persistent_workers=False, dataset=clips)
test_evaluator = dict(dump="scores.json")
train_cfg = dict(max_epochs=2)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))
"""


@MODELS.register_module()
class ToyPredictor(nn.Module):
    """One convolution over the frames before and after a target, around their mean."""

    clip_length, context, num_targets = 9, 3, 3

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 3, padding=1)

    def example_inputs(self, batch=2, size=(16, 16)):
        return (torch.randn(batch, self.clip_length, 1, *size),)

    def forward(self, clip):
        pairs = clip[:, [[2, 4], [3, 5], [4, 6]], 0]  # (B, 3, 2, H, W)
        return pairs.mean(2, keepdim=True) + 0.1 * self.conv(pairs.flatten(0, 1)).unflatten(0, (-1, 3))


def make_frames(length=LENGTH, side=SIDE, abnormal=(), color=False):
    """Frames uint8 (length, side, side, 3) in the order blue, green, red."""
    frames = np.full((length, side, side, 3), 60, np.uint8)
    for i, frame in enumerate(frames):
        x = i * (side - 4) // max(length - 1, 1)
        if i in abnormal:
            x = (x + side // 2 * (i % 2)) % (side - 4)
        frame[side // 2 - 2 : side // 2 + 2, x : x + 4] = (250, 120, 10) if color else 200
    return frames


def write_folder(folder, frames, start=0, suffix=".png"):
    folder.mkdir(parents=True, exist_ok=True)
    for i, frame in enumerate(frames, start):
        cv2.imwrite(str(folder / f"{i:03}{suffix}"), frame)


def write_file(path, frames, code="MJPG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), 25, frames.shape[2:0:-1])
    for frame in frames:
        writer.write(frame)
    writer.release()


def encode_file(path, frames, codec, times=None, *, gop=12, form=None):
    """A video by PyAV: frames (n, H, W, 3), at times in milliseconds, or 25 a second."""
    rate = 25 if times is None else 1000
    with av.open(str(path), "w", format=form) as file:
        stream = file.add_stream(codec, rate=25)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, rate)
        stream.codec_context.gop_size = gop
        for frame, time in zip(frames, range(len(frames)) if times is None else times, strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format="bgr24")
            picture.pts, picture.time_base = int(time), Fraction(1, rate)
            file.mux(stream.encode(picture.reformat(format=stream.pix_fmt)))
        file.mux(stream.encode())


def write_project(folder):
    """Three videos to train, two to test in the layout of copies, and the config of a run on them."""
    for i in range(3):
        write_folder(folder / f"data/training/frames/0{i}", make_frames())
    labels = {}
    for name, abnormal in (("01", ABNORMAL), ("02", ())):
        write_folder(folder / f"data/testing/frames/{name}", make_frames(abnormal=abnormal))
        labels[name] = [int(i in abnormal) for i in range(LENGTH)]
    (folder / "data/testing/frame_labels.json").write_text(json.dumps(labels))
    (folder / "toy.py").write_text(CONFIG)
    return "toy.py"
