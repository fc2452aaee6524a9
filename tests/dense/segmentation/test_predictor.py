"""Segmentation of files, folders and arrays of every kind, with configs of MMSegmentation."""

import copy
from pathlib import Path

import mmseg
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS
from PIL import Image

from dense.registry import ZOO
from dense.segmentation import Segmenter
from pointsuite.engine.checkpoint import CheckpointError

from . import oracle  # noqa: F401  registers its segmentor

COLORS = ((250, 10, 0), (0, 240, 20), (10, 0, 250))
CONFIG = """
default_scope = "mmseg"
custom_imports = dict(imports=["dense.segmentation", "tests.dense.segmentation.oracle"])
model = dict(
    type="dense.ColourSegmentor",
    data_preprocessor=dict(type="SegDataPreProcessor", mean=[0.0] * 3, std=[100.0] * 3, bgr_to_rgb=True),
)
test_dataloader = dict(
    dataset=dict(
        type="BaseSegDataset",
        data_prefix=dict(img_path="nowhere"),
        metainfo=dict(
            classes=("red", "green", "blue"), palette=[(255, 255, 0), (0, 255, 255), (255, 0, 255)]
        ),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="Resize", scale=(64, 32), keep_ratio=True),
            dict(type="LoadAnnotations"),
            dict(type="dense.RoundLabels"),
            dict(type="PackSegInputs"),
        ],
    )
)
"""


@pytest.fixture
def config(tmp_path):
    (tmp_path / "config.py").write_text(CONFIG)
    return tmp_path / "config.py"


@pytest.fixture
def weights(tmp_path):
    torch.save({"state_dict": {"scale": torch.full((1,), 2.0)}}, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


@pytest.fixture
def segment(config, weights):
    return Segmenter(config, weights, "cpu")


def make_picture(height=60, width=90):
    """Stripes of the three colours, and their classes."""
    labels = np.repeat(np.arange(3), width // 3)[None].repeat(height, 0).astype(np.uint8)
    return np.array(COLORS, np.uint8)[labels], labels


def check(found, labels):
    assert found.labels.dtype == np.uint8 and found.labels.shape == labels.shape
    wrong = found.labels != labels
    assert wrong.mean() < 0.05  # at the edges, through a resizing


def test_every_kind_of_input(segment, tmp_path):
    pixels, labels = make_picture()
    folder = tmp_path / "in"
    folder.mkdir()
    image = Image.fromarray(pixels)
    image.save(folder / "a.png")
    image.save(folder / "b.JPG", quality=100)
    image.convert("P").save(folder / "c.png")
    (folder / "notes.txt").touch()
    found = segment(folder / "a.png")
    check(found, labels)
    assert found.classes == ("red", "green", "blue") and found.probabilities is None
    for one in segment(str(folder)):
        check(one, labels)
    alpha = np.dstack([pixels, np.zeros(labels.shape, np.uint8)])
    for array in (pixels, alpha, pixels.astype(np.uint16) * 257):
        assert (segment(array).labels == found.labels).all()
    small, few = make_picture(30, 33)
    many = segment([folder / "a.png", small, pixels])
    assert (many[0].labels == found.labels).all() and (many[2].labels == found.labels).all()
    check(many[1], few)
    assert segment([]) == []


def test_batches_change_nothing(config, weights):
    pictures = [make_picture(*size)[0] for size in ((60, 90), (30, 33), (60, 90), (45, 90))]
    alone = Segmenter(config, weights)(pictures, probabilities=True)
    together = Segmenter(config, weights, batch_size=4)(pictures, probabilities=True)
    for one, other in zip(alone, together, strict=True):
        assert (one.labels == other.labels).all() and (one.probabilities == other.probabilities).all()


def test_probabilities(segment, config, weights):
    pixels, _ = make_picture()
    _, _, found = segment(pixels, probabilities=True)
    assert found.shape == (3, 60, 90) and found.dtype == np.float32
    np.testing.assert_allclose(found.sum(0), 1, rtol=1e-5)
    logits = 2 * np.array(COLORS[0]) / 100  # the weight is 2
    wanted = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(found[:, 30, 10], wanted, atol=1e-4)
    cfg = Config.fromfile(config)
    cfg.model.outputs = 1
    cfg.model.data_preprocessor.mean = [100.0] * 3
    cfg.test_dataloader.dataset.metainfo = {"classes": ("no", "yes"), "palette": [(0, 0, 0), (1, 1, 1)]}
    labels, classes, found = Segmenter(cfg, weights)(pixels, probabilities=True)
    assert found.shape == (1, 60, 90) and found[0, 30, 10] == pytest.approx(1 / (1 + np.exp(-3)), abs=1e-4)
    assert classes[labels[30, 10]] == "yes" and classes[labels[30, 80]] == "no"


@pytest.mark.parametrize("color_type", ["color", "color_ignore_orientation"])
def test_orientation(config, weights, tmp_path, color_type):
    cfg = Config.fromfile(config)
    cfg.test_dataloader.dataset.pipeline[0].color_type = color_type
    pixels, labels = make_picture()
    exif = Image.Exif()
    exif[274] = 6
    side = Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90)
    side.save(tmp_path / "turned.png", exif=exif)
    wanted = labels if color_type == "color" else np.rot90(labels)
    check(Segmenter(cfg, weights)(tmp_path / "turned.png"), wanted)


def test_pictures(segment, tmp_path):
    """The colours of the palette over the image; files keep their names, arrays are numbered."""
    pixels, labels = make_picture()
    Image.fromarray(pixels).save(tmp_path / "street.png")
    segment([tmp_path / "street.png", pixels], out_dir=tmp_path / "out", opacity=1.0)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["1.png", "street.png"]
    for path in (tmp_path / "out").iterdir():
        drawn = np.asarray(Image.open(path))
        # in the corner, where no name of a class is
        assert drawn[-3, 3].tolist() == [255, 255, 0] and drawn[-3, -3].tolist() == [255, 0, 255]
    with pytest.raises(ValueError, match=r"street\.png and .*street\.png would both become"):
        segment([tmp_path / "street.png"] * 2, out_dir=tmp_path / "out")


def test_names_of_classes(config, weights, tmp_path):
    """Those of training, else those of the config, else numbers."""
    content = torch.load(weights, weights_only=True)
    trained = {"classes": ("a", "b", "c"), "palette": [(1, 2, 3)] * 3}
    torch.save({**content, "meta": {"dataset_meta": trained}}, tmp_path / "trained.pth")
    assert Segmenter(config, tmp_path / "trained.pth").classes == ("a", "b", "c")
    cfg = Config.fromfile(config)
    del cfg.test_dataloader.dataset["metainfo"]
    segment = Segmenter(cfg, weights)
    assert segment.classes == ("0", "1", "2")
    segment(make_picture()[0], out_dir=tmp_path / "out")
    assert (tmp_path / "out/0.png").is_file()


def test_errors_name_what_is_wrong(segment, config, weights, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").touch()
    for name in ("text.png", "empty.png"):
        with pytest.raises(OSError, match=f"{name}: not an image that can be read"):
            segment(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        segment(tmp_path / "none.png")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileNotFoundError, match="folder: a folder without files"):
        segment(tmp_path / "folder")
    with pytest.raises(ValueError, match=r"an array \(4, 4, 2\)"):
        segment(np.zeros((4, 4, 2), np.uint8))
    with pytest.raises(ValueError, match=r"an array \(1, 5000\): too thin to be resized"):
        segment(np.zeros((1, 5000), np.uint8))
    torch.save({"state_dict": {"scale": torch.zeros(1), "more": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="1 unexpected: more"):
        Segmenter(config, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="a bare Identity does not say how images are prepared"):
        Segmenter(torch.nn.Identity())


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py", 19),  # whole images
        ("unet/unet-s5-d16_fcn_4xb4-40k_stare-128x128.py", 2),  # by a sliding window
    ],
)
def test_stock_configs(tmp_path, name, classes):
    """As they are, with a checkpoint of the published kind; of data that is not there."""
    cfg = Config.fromfile(Path(mmseg.__file__).parent / ".mim/configs" / name)
    cfg.model.pretrained = None
    if "pspnet" in name:
        cfg.model.backbone.update(depth=18, base_channels=8, init_cfg=None)
        cfg.model.decode_head.update(in_channels=64, channels=8)
        cfg.model.auxiliary_head.update(in_channels=32, channels=8)
    else:
        cfg.model.backbone.base_channels = 4
        cfg.model.decode_head.update(in_channels=4, channels=8)
        cfg.model.auxiliary_head.update(in_channels=8, channels=8)
    cfg.test_dataloader.dataset.pipeline[1].scale = (192, 128)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmseg"):
        state = MODELS.build(copy.deepcopy(cfg.model)).state_dict()
    torch.save({"state_dict": state}, tmp_path / "weights.pth")
    segment = Segmenter(cfg, tmp_path / "weights.pth")
    labels, names, found = segment(make_picture(32, 48)[0], probabilities=True)
    assert labels.shape == (32, 48) and found.shape == (classes, 32, 48) and len(names) == classes
    assert np.isfinite(found).all() and labels.max() < classes


def test_a_network_of_the_zoo_and_its_grey_slices(tmp_path):
    """Arrays become grey as files do, and results are what the segmentor says of them."""
    torch.manual_seed(0)
    network = ZOO.systems()["self_guided_attention"].smallest()
    segment = Segmenter(network, device="cpu")
    assert segment.classes[1] == "liver"
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "slice.png")
    file, array = (segment(x, probabilities=True) for x in (tmp_path / "slice.png", pixels))
    np.testing.assert_allclose(file.probabilities, array.probabilities, atol=1e-5)
    assert file.labels.shape == (64, 96) and (file.probabilities.std((1, 2)) > 0).all()
    assert (file.probabilities.argmax(0) == file.labels).all()
