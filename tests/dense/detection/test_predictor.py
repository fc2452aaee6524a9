"""Detection in files and arrays of every kind, and what is said of those that are no images."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dense

pytest.importorskip("mmdet")

import cv2
from mmdet.apis import DetInferencer as StockInferencer
from mmdet.datasets import CocoDataset
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope

from dense.detection import DetInferencer
from pointsuite.engine.checkpoint import CheckpointError

from . import oracle  # noqa: F401  registers its detectors
from .coco_toy import CLASSES, write_coco

CONFIGS = Path(__file__).parents[3] / "configs"
WIDTH, HEIGHT = 96, 64
BOX = [12, 20, 52, 40]
COLORS = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250), "white": (250, 250, 250)}


@pytest.fixture
def config():
    """Of Penn-Fudan, with its resizing, and a detector that finds what is bright."""
    config = Config.fromfile(CONFIGS / "relationnet2/relationnet2-retinanet_r18_pennfudan.py")
    preprocessor = {"type": "DetDataPreprocessor", "mean": [0] * 3, "std": [1] * 3, "bgr_to_rgb": True}
    config.model = {"type": "dense.BrightDetector", "data_preprocessor": preprocessor}
    config.test_dataloader.dataset.metainfo = {"classes": tuple(COLORS), "palette": [(255, 255, 0)] * 4}
    return config


@pytest.fixture
def weights(tmp_path):
    torch.save({"state_dict": {"weight": torch.zeros(1)}}, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


@pytest.fixture
def inferencer(config, weights):
    return DetInferencer(config, weights, "cpu")


def picture(color="red", shape=(HEIGHT, WIDTH)):
    pixels = np.zeros((*shape, 3), np.uint8)
    x1, y1, x2, y2 = BOX
    pixels[y1:y2, x1:x2] = COLORS[color]
    return pixels


def check(result, label, box=BOX):
    assert result["labels"] == [label] and result["scores"] == pytest.approx([0.9])
    assert np.abs(np.array(result["bboxes"]) - box).max() < 1  # pixels, through a resizing


def one(inferencer, image):
    (result,) = inferencer(image)["predictions"]
    return result


@pytest.mark.parametrize("color", ["red", "green", "blue"])
def test_colours(inferencer, tmp_path, color):
    """Alpha is dropped, palettes are looked up, 16 bits become 8; JPEG, WebP, TIFF, BMP and CMYK are read."""
    pixels, label = picture(color), [*COLORS].index(color)
    image = Image.fromarray(pixels)
    clear = Image.fromarray(np.dstack([pixels, np.zeros((HEIGHT, WIDTH), np.uint8)]))  # all of it transparent
    for name in ("plain.png", "plain.jpg", "plain.webp", "plain.tif", "plain.bmp"):
        image.save(tmp_path / name)
    image.convert("CMYK").save(tmp_path / "inks.jpg")
    clear.save(tmp_path / "clear.png")
    image.convert("P").save(tmp_path / "palette.png")
    cv2.imwrite(str(tmp_path / "deep.png"), pixels[..., ::-1].astype(np.uint16) * 257)
    files = sorted(path for path in tmp_path.iterdir() if path.suffix != ".pth")
    assert len(files) == 9
    for path in files:
        check(one(inferencer, path), label)
    bgr = pixels[..., ::-1]
    for array in (bgr, np.dstack([bgr, np.zeros((HEIGHT, WIDTH), np.uint8)]), bgr.astype(np.uint16) * 257):
        check(one(inferencer, array), label)


def test_grey(inferencer, tmp_path):
    grey = picture("white")[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey).convert("LA").save(tmp_path / "alpha.png")
    Image.fromarray(grey).convert("1").save(tmp_path / "bits.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    for image in (*sorted(tmp_path.glob("*.png")), grey, grey[..., None], grey.astype(np.uint16) * 257):
        check(one(inferencer, image), 3)


def turned(path, upright=None):
    """Write pixels on their side, with the note that says so."""
    exif = Image.Exif()
    exif[274] = 6
    side = Image.fromarray(picture() if upright is None else upright).transpose(Image.Transpose.ROTATE_90)
    side.save(path, exif=exif, **({"quality": 100} if path.suffix == ".jpg" else {}))
    return path


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_orientation(config, weights, tmp_path, suffix):
    """Boxes are of the upright image; a reader may be told to ignore the note."""
    path = turned(tmp_path / f"turned{suffix}")
    check(one(DetInferencer(config, weights, "cpu"), path), 0)
    config.test_dataloader.dataset.pipeline[0]["color_type"] = "color_ignore_orientation"
    x1, y1, x2, y2 = BOX
    check(one(DetInferencer(config, weights, "cpu"), path), 0, [y1, WIDTH - x2, y2, WIDTH - x1])


@pytest.mark.parametrize("color_type", ["color", "color_ignore_orientation"])
def test_orientation_in_a_data_set(tmp_path, color_type):
    """Boxes are taken to be of the upright image; with ``color_ignore_orientation``, of the stored pixels."""
    x1, y1, x2, y2 = box = BOX if color_type == "color" else [BOX[1], WIDTH - BOX[2], BOX[3], WIDTH - BOX[0]]
    write_coco(tmp_path, [[{"bbox": [x1, y1, x2 - x1, y2 - y1]}]])
    turned(tmp_path / "images/0.png")
    names = ("LoadImageFromFile", "LoadAnnotations", "PackDetInputs")
    options = ({"color_type": color_type}, {"with_bbox": True}, {})
    with DefaultScope.overwrite_default_scope("mmdet"):
        data = CocoDataset(
            data_root=str(tmp_path),
            ann_file="instances.json",
            data_prefix={"img": "images/"},
            metainfo={"classes": CLASSES},
            pipeline=[{"type": name, **extra} for name, extra in zip(names, options, strict=True)],
        )
    sample = data[0]
    assert sample["data_samples"].gt_instances.bboxes.tensor.tolist() == [box]
    red = sample["inputs"][2] > 128  # blue, green, red
    assert red[y1:y2, x1:x2].all() and red.sum() == (x2 - x1) * (y2 - y1)


def test_small_and_thin(inferencer, tmp_path):
    """A pixel is an image; a line is, too, until nothing of it is left."""
    for shape in ((1, 1), (1, 300), (300, 1), (2, 2)):
        white = np.full(shape, 250, np.uint8)
        Image.fromarray(white).save(tmp_path / "white.png")
        for image in (white, tmp_path / "white.png"):
            check(one(inferencer, image), 3, [0, 0, *shape[::-1]])
    Image.new("L", (5000, 1)).save(tmp_path / "line.png")
    with pytest.raises(ValueError, match=r"line.png: too thin to be resized"):
        inferencer(tmp_path / "line.png")


def test_not_images(inferencer, tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpg").write_text("not an image")
    Image.fromarray(picture()).save(tmp_path / "half.png")
    data = (tmp_path / "half.png").read_bytes()
    (tmp_path / "half.png").write_bytes(data[: len(data) // 2])
    for name in ("empty.png", "text.jpg", "half.png"):
        with pytest.raises(OSError, match=f"{name}: not an image that can be read"):
            inferencer(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        inferencer(tmp_path / "none.png")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileNotFoundError, match="folder: a folder without files"):
        inferencer(tmp_path / "folder")
    for array, said in (
        (np.zeros((0, 4, 3), np.uint8), r"an array \(0, 4, 3\)"),
        (np.zeros((4, 4, 2), np.uint8), r"an array \(4, 4, 2\)"),
        (np.zeros(4, np.uint8), r"an array \(4,\)"),
        (np.zeros((4, 4), np.float32), "an array of float32, wanted uint8 or uint16"),
    ):
        with pytest.raises(ValueError, match=said):
            inferencer(array)


def test_many_and_what_is_kept_of_them(inferencer, tmp_path):
    """Folders by name, lists and batches; pictures in true colours, predictions as JSON."""
    folder = tmp_path / "in"
    folder.mkdir()
    for i, color in enumerate(("red", "blue", "green")):
        Image.fromarray(picture(color)).save(folder / f"{i}.png")
    (folder / "notes.txt").touch()
    out = tmp_path / "out"
    found = inferencer(folder, batch_size=2, out_dir=str(out), no_save_pred=False)
    assert [result["labels"] for result in found["predictions"]] == [[0], [2], [1]]
    assert json.loads((out / "preds/1.json").read_text()) == found["predictions"][1]
    assert inferencer(sorted(folder.glob("*.png")), batch_size=3)["predictions"] == found["predictions"]
    array = picture("blue")[..., ::-1]
    inferencer(array, out_dir=str(out / "array"), no_save_pred=False)
    assert len([*(out / "array/vis").iterdir()]) == 1
    assert json.loads((out / "array/preds/0.json").read_text())["labels"] == [2]
    for path in (out / "vis/1.png", *(out / "array/vis").glob("*.jpg")):
        drawn = np.asarray(Image.open(path)).astype(int)
        changed = np.abs(drawn - picture("blue").astype(int)).max(2) > 60
        assert (drawn[34:37, 20:40] > 200).all((0, 1)).tolist() == [False, False, True]  # below the name
        assert changed[34:38, BOX[2] - 2 : BOX[2] + 2].any(1).all()  # the right edge, in yellow


def test_names_of_classes(config, tmp_path):
    """Those that the checkpoint was trained with, else the config's; never COCO's by default."""
    state = {"weight": torch.zeros(1)}
    trained = {"classes": ("a", "b", "c", "d"), "palette": [(1, 2, 3)] * 4}
    torch.save({"state_dict": state}, tmp_path / "plain.pth")
    torch.save({"state_dict": state, "meta": {"dataset_meta": trained}}, tmp_path / "trained.pth")
    found = DetInferencer(config, tmp_path / "plain.pth", "cpu").model.dataset_meta
    assert found["classes"] == tuple(COLORS) and found["palette"] == [(255, 255, 0)] * 4
    found = DetInferencer(config, tmp_path / "trained.pth", "cpu").model.dataset_meta
    assert found["classes"] == trained["classes"] and found["palette"] == trained["palette"]
    assert (
        DetInferencer(config, tmp_path / "plain.pth", "cpu", palette="coco").model.dataset_meta["palette"]
        == "coco"
    )


def test_weights(config, tmp_path):
    """They must fit, and hold nothing that runs."""
    torch.save({"state_dict": {"weight": torch.zeros(1), "more": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="1 unexpected: more"):
        DetInferencer(config, tmp_path / "other.pth", "cpu")
    torch.save({"state_dict": {"weight": torch.zeros(1)}, "meta": Path("x")}, tmp_path / "code.pth")
    with pytest.raises(CheckpointError, match="refused"):
        DetInferencer(config, tmp_path / "code.pth", "cpu")
    with pytest.raises(ValueError, match=r"none\.pth: no such checkpoint"):
        DetInferencer(config, tmp_path / "none.pth", "cpu")


SMALL = {
    "relation_detr/relation-detr_r50_pennfudan.py": {
        "model.num_queries": 12,
        "model.test_cfg.max_per_img": 10,
        "model.backbone.depth": 18,
        "model.backbone.stem_channels": 8,
        "model.backbone.base_channels": 8,
        "model.neck.in_channels": [16, 32, 64],
        "model.encoder.num_layers": 1,
        "model.decoder.num_layers": 2,
    },
    "relationnet2/relationnet2-retinanet_r18_pennfudan.py": {
        "model.backbone.base_channels": 8,
        "model.neck.in_channels": [8, 16, 32, 64],
        "model.test_cfg.score_thr": 0.0,
        "model.test_cfg.max_per_img": 10,
    },
}


@pytest.mark.parametrize("name", SMALL)
def test_the_configs(tmp_path, name):
    """From a config and a checkpoint, as the README says: ten boxes, within the image, the same again."""
    config = Config.fromfile(CONFIGS / name)
    config.merge_from_dict({**SMALL[name], "test_dataloader.dataset.pipeline.1.scale": (128, 96)})
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmdet"):
        detector = MODELS.build(copy.deepcopy(config.model))
    torch.save({"state_dict": detector.state_dict()}, tmp_path / "weights.pth")
    config.dump(tmp_path / "config.py")
    Image.fromarray(picture()).save(tmp_path / "image.png")
    inferencer = DetInferencer(tmp_path / "config.py", tmp_path / "weights.pth", "cpu")
    result = one(inferencer, tmp_path / "image.png")
    boxes = np.array(result["bboxes"])
    assert boxes.shape == (10, 4) and set(result["labels"]) == {0}
    assert (boxes >= 0).all() and (boxes[:, 2:] <= np.array([WIDTH, HEIGHT]) + 1e-3).all()
    assert inferencer.model.dataset_meta["classes"] == ("person",)
    assert one(inferencer, picture()[..., ::-1]) == result
    for shape in ((1, 1), (1, 200), (150, 1)):
        boxes = np.array(one(inferencer, np.zeros(shape, np.uint8))["bboxes"])
        assert boxes.shape == (10, 4) and np.isfinite(boxes).all()
    # MMDetection's own agrees, where it can
    stock = StockInferencer(str(tmp_path / "config.py"), str(tmp_path / "weights.pth"), device="cpu")
    assert one(stock, str(tmp_path / "image.png")) == result


def test_arguments_as_of_other_predictors(config, weights, tmp_path, capsys):
    """A work dir, its config and checkpoint, MMDetection's names of arguments, a bar for many."""
    folder = tmp_path / "work"
    folder.mkdir()
    config.dump(folder / "config.py")
    (folder / "epoch_1.pth").write_bytes(weights.read_bytes())
    (folder / "last_checkpoint").write_text("epoch_1.pth")
    wanted = one(DetInferencer(config, weights), picture())
    for detect in (
        DetInferencer(folder),
        DetInferencer(str(folder / "config.py"), folder, "cpu"),
        DetInferencer(model=config, weights=weights, device="cpu", show_progress=False),
    ):
        assert one(detect, picture()) == wanted
    detect = DetInferencer(folder, batch_size=2, progress=True)
    assert [found["labels"] for found in detect.iterate([picture(), picture("blue")])] == [[2], [0]]
    capsys.readouterr()
    detect([picture()] * 3)
    assert "3/3" in capsys.readouterr().err
    detect(picture())
    DetInferencer(folder)([picture()] * 3)
    assert capsys.readouterr().err == ""


def test_networks_of_the_zoo_know_how_images_are_prepared():
    small = {"backbone.base_channels": 8, "neck.in_channels": [8, 16, 32, 64], "backbone.depth": 18}
    options = {"test_cfg.score_thr": 0.0, "test_cfg.max_per_img": 5}
    network = dense.create_model("relationnet2_retinanet_r50", **small, **options)
    network.cfg.test_dataloader.dataset.pipeline[1].scale = (128, 96)
    detect = DetInferencer(network, device="cpu")
    result = one(detect, picture())
    assert len(result["labels"]) == 5 and len(detect.model.dataset_meta["classes"]) == 80


def test_what_cannot_be_a_detector(config, weights, tmp_path):
    with pytest.raises(ValueError, match="wanted a config, a work dir or a network, found none"):
        DetInferencer(weights=weights)
    with pytest.raises(ValueError, match="a bare Linear does not say how images are prepared"):
        DetInferencer(torch.nn.Linear(1, 1))
    meta = {"model": {"type": "BrightDetector"}}
    torch.save({"state_dict": {"weight": torch.zeros(1)}, "meta": meta}, tmp_path / "run.pth")
    with pytest.raises(
        CheckpointError, match=r"run\.pth: does not say how images are prepared, wanted its config"
    ):
        DetInferencer(tmp_path / "run.pth")


def test_files_of_one_name_keep_their_folders(inferencer, tmp_path):
    """Nothing is overwritten: neither from two folders, nor where endings differ; endings in any case."""
    colors = {"cam1/0001.jpg": "red", "cam2/0001.jpg": "green", "cam2/0001.png": "blue", "cam2/c.TIF": "red"}
    for name, color in colors.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(color)).save(tmp_path / "in" / name)
    files = [tmp_path / "in" / name for name in colors]
    inferencer(files, batch_size=3, out_dir=str(tmp_path / "out"), no_save_pred=False)
    assert {str(p.relative_to(tmp_path / "out/vis")) for p in (tmp_path / "out/vis").rglob("*.*")} == {
        *colors
    }
    wanted = {"cam1/0001": 0, "cam2/0001.jpg": 1, "cam2/0001.png": 2, "cam2/c": 0}
    for name, label in wanted.items():
        check(json.loads((tmp_path / f"out/preds/{name}.json").read_text()), label)
    assert len([*(tmp_path / "out/preds").rglob("*.json")]) == len(colors)
    (tmp_path / "in/cam2/notes.txt").touch()
    with pytest.warns(UserWarning, match=r"cam2: passed over, .*: notes\.txt"):
        assert len(inferencer(tmp_path / "in/cam2")["predictions"]) == 3
