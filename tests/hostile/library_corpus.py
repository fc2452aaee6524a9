"""Damaged and mistaken data of detection and segmentation, and what their predictors are given, by a seed."""

import contextlib
import copy
import io
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import mmseg.datasets  # noqa: F401  registers
import numpy as np
import torch
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.datasets import BaseSegDataset
from PIL import Image
from torch import nn

from dense.base.coco import read_coco
from dense.detection import DetInferencer
from dense.detection.box_correlation import read_coco_boxes
from dense.segmentation import Segmenter
from dense.segmentation.datasets import CamVidDataset, SliceDataset
from pointsuite.predictor import Classifier, PartSegmenter
from tests.dense.detection import oracle as boxes  # noqa: F401  registers its detectors
from tests.dense.detection.coco_toy import CLASSES, SIZE, write_coco
from tests.dense.segmentation import oracle as labels  # noqa: F401  registers its segmentor
from tests.dense.segmentation.data import write_camvid, write_slices
from tests.tools.load import REPOSITORY, load_tool

from .corpus import Cloud, make_cloud, whole_files
from .harness import Case, Refusal
from .image_corpus import encode, flip, predicting, reading

DETECTOR = REPOSITORY / "configs/relationnet2/relationnet2-retinanet_r18_pennfudan.py"
BOXES = [
    {"type": "LoadImageFromFile"},
    {"type": "LoadAnnotations", "with_bbox": True},
    {"type": "PackDetInputs"},
]
MASKS = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}, {"type": "PackSegInputs"}]
READERS: dict[str, Callable[[Path], object]] = {
    "read_coco": read_coco,
    "read_coco_boxes": read_coco_boxes,
}


# ----------------------------------------------------------------------------------------------- detection


def coco_samples(path: Path) -> list:
    """All samples of MMDetection's data set, with their images."""
    with DefaultScope.overwrite_default_scope("mmdet"), contextlib.redirect_stdout(io.StringIO()):
        dataset = CocoDataset(
            ann_file=path.name,
            data_root=str(path.parent),
            data_prefix={"img": "images/"},
            metainfo={"classes": CLASSES},
            pipeline=copy.deepcopy(BOXES),
            test_mode=True,
        )
        return [dataset[i] for i in range(len(dataset))]


READERS["CocoDataset"] = coco_samples


def coco_texts(seed: int, right: bytes) -> dict[str, tuple[bytes, bool]]:
    """Files in COCO's format, and whether one must be refused."""
    rng = np.random.default_rng(seed)
    texts: dict[str, tuple[bytes, bool]] = {
        "nothing in it": (b"", True),
        "a list": (b"[]", True),
        "a number": (b"3", True),
        "a text": (b'"images"', True),
        "deep": (b'{"images":' * 50_000, True),
        "UTF-16": (right.decode().encode("utf-16"), False),
        "a mark before it": (b"\xef\xbb\xbf" + right, False),
        "bytes": (bytes(range(256)), True),
        "a comma more": (right[:-1] + b",}", True),
        "lines": (right + b"\n" + right, True),
        "a key twice": (right[:-1] + b', "images": []}', True),
        "5,000 digits": (right.replace(b'"width": 96', b'"width": ' + b"9" * 5000, 1), True),
        "1e400": (right.replace(b'"width": 96', b'"width": 1e400', 1), True),
    }
    texts |= {f"cut {i}": (right[:end], True) for i, end in enumerate(rng.integers(1, len(right) - 1, 12))}

    def changed(key: str, field: str | None, value) -> bytes:
        data = json.loads(right)
        if field is None:
            data[key] = value
        elif value == "missing":
            del data[key][0][field]
        else:
            data[key][0][field] = value
        return json.dumps(data).encode()

    for key in ("images", "categories", "annotations"):
        for value in (None, 3, "x", {}, [3], [None], [[]]):
            texts[f"{key} {value}"] = changed(key, None, value), True
    texts["no categories"] = changed("categories", None, []), True
    nothing = ("missing", None, [], {}, True)
    wrong = {
        ("images", "width"): (*nothing, 0, -1, "96", float("nan"), float("inf")),
        ("images", "height"): (*nothing, 0, -1, "96", float("nan")),
        ("images", "file_name"): ("missing", None, 3, [], "1.png"),
        ("images", "id"): ("missing", None, 1, [], 1.5),
        ("categories", "name"): ("missing", None, 3, [], "green"),
        ("categories", "id"): ("missing", None, 11, [], {}),
        ("annotations", "image_id"): ("missing", None, 99, [], "0", 0.5),
        ("annotations", "category_id"): ("missing", None, 99, [], -1, "1"),
        ("annotations", "bbox"): (
            "missing",
            None,
            "x",
            [],
            [1, 2, 3],
            [1, 2, 3, "4"],
            [1, 2, 3, None],
            [1, 2, -3, 4],
            [1, 2, 3, float("nan")],
            [float("-inf"), 2, 3, 4],
            [1, 2, 3, 4, 5],
            [200, 2, 3, 4],
            [1, -90, 3, 4],
            [True, 2, 3, 4],
        ),
        ("annotations", "area"): ("x", -1, float("nan"), []),
        ("annotations", "iscrowd"): (2, "x", [], -1),
        ("annotations", "segmentation"): (
            3,
            "x",
            {"size": [9, 9], "counts": [3, 4]},
            {"size": [64, 96]},
            {"counts": "abc"},
        ),
        ("annotations", "id"): ("missing", None, 2, []),
    }
    for (key, field), values in wrong.items():
        for value in values:
            texts[f"{key}.{field} {value}"] = changed(key, field, value), True
    for i in range(25):
        texts[f"flip {i}"] = flip(rng, right), False
    return texts


def coco_cases(seed: int, folder: Path) -> list[Case]:
    right = write_coco(folder, [2, 3]).read_bytes()
    pictures = {path.name: path.read_bytes() for path in (folder / "images").iterdir()}
    cases = []

    def place_all(place: Path, text: bytes, images: dict[str, bytes]) -> Path:
        (place / "images").mkdir()
        for name, data in images.items():
            (place / "images" / name).write_bytes(data)
        (place / "instances.json").write_bytes(text)
        return place / "instances.json"

    for which, reader in READERS.items():
        cases.append(
            Case(f"{which}: good", lambda p, r=reader: r(place_all(p, right, pictures)), lambda found: True)
        )
        for what, (text, refused) in coco_texts(seed, right).items():

            def run(place: Path, reader=reader, text=text):
                return reader(place_all(place, text, pictures))

            name = f"{which}: {what[:60]}"
            cases.append(Case(name, run, None if refused else lambda found: True, not refused))
    pixels = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = encode(Image.fromarray(pixels), "PNG")
    for what, data in {
        "cut": whole[: len(whole) // 2],
        "flipped": flip(np.random.default_rng(seed), whole, 33, 12),
        "empty": b"",
        "text": b"no image",
        "of another size": encode(Image.fromarray(pixels[:-9]), "PNG"),
        "on its side": encode(Image.fromarray(pixels.transpose(1, 0, 2)), "PNG"),
        "of two pages": encode(
            Image.fromarray(pixels), "TIFF", save_all=True, append_images=[Image.fromarray(pixels)]
        ),
    }.items():
        images = {**pictures, "0.png": data}
        cases.append(
            Case(
                f"CocoDataset: an image {what}",
                lambda p, i=images: coco_samples(place_all(p, right, i)),
                names="0.png",
            )
        )
    turned = {**pictures, "0.png": encode(Image.fromarray(pixels.transpose(1, 0, 2)), "PNG", exif=exif)}
    cases.append(
        Case(
            "CocoDataset: an image that EXIF turns",
            lambda p: coco_samples(place_all(p, right, turned)),
            lambda found: found[0]["inputs"].shape[1:] == SIZE[::-1],
        )
    )
    for what, make in {
        "nothing": lambda path: path.unlink(),
        "a folder": lambda path: (path.unlink(), path.mkdir()),
        "a FIFO": lambda path: (path.unlink(), os.mkfifo(path)),
        "a device": lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
        "a link to itself": lambda path: (path.unlink(), path.symlink_to(path.name)),
    }.items():
        for which, file in (("an image", "images/0.png"), ("annotations", "instances.json")):

            def run(place: Path, make=make, file=file):
                path = place_all(place, right, pictures)
                make(place / file)
                return coco_samples(path)

            cases.append(Case(f"CocoDataset: {what} as {which}", run, names=Path(file).name))
    return cases


# -------------------------------------------------------------------------------------------- segmentation


def seg_samples(dataset) -> list:
    return [dataset[i] for i in range(len(dataset))]


def plain_masks(root: Path) -> list:
    with DefaultScope.overwrite_default_scope("mmseg"):
        return seg_samples(
            BaseSegDataset(
                data_root=str(root),
                data_prefix={"img_path": "img", "seg_map_path": "ann"},
                metainfo={"classes": ("a", "b", "c")},
                img_suffix=".png",
                pipeline=copy.deepcopy(MASKS),
            )
        )


def camvid(root: Path) -> list:
    with DefaultScope.overwrite_default_scope("mmseg"):
        return seg_samples(CamVidDataset(data_root=str(root), pipeline=copy.deepcopy(MASKS)))


def slices(root: Path) -> list:
    steps = [*MASKS[:2], {"type": "dense.RoundLabels"}, MASKS[2]]
    with DefaultScope.overwrite_default_scope("mmseg"):
        return seg_samples(
            SliceDataset(
                data_root=str(root),
                data_prefix={"img_path": "train/Img", "seg_map_path": "train/GT"},
                pipeline=copy.deepcopy(steps),
            )
        )


def prepared(name: str, *arguments: str) -> str:
    said, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(errors):
        code = load_tool("prepare_dataset").main([name, *arguments])
    if code:
        raise Refusal(errors.getvalue().strip())
    return said.getvalue()


def write_plain(root: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(2):
        for folder, top, shape in (("img", 256, (20, 24, 3)), ("ann", 3, (20, 24))):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, top, shape).astype(np.uint8)).save(root / folder / f"{i}.png")


def write_people(root: Path) -> None:
    rng = np.random.default_rng(0)
    for folder in ("PNGImages", "PedMasks"):
        (root / folder).mkdir(parents=True)
    for i in range(2):
        mask = np.zeros((20, 24), np.uint8)
        mask[4:12, 3:9], mask[5:15, 12:20] = 1, 2
        Image.fromarray(rng.integers(0, 256, (20, 24, 3)).astype(np.uint8)).save(root / f"PNGImages/p{i}.png")
        Image.fromarray(mask).save(root / f"PedMasks/p{i}_mask.png")


# how each is written and read, and one image and one mask of it
FOLDERS: dict[str, tuple[Callable, Callable, str, str]] = {
    "BaseSegDataset": (write_plain, plain_masks, "img/0.png", "ann/0.png"),
    "CamVidDataset": (
        lambda root: write_camvid(root, counts=(2, 1, 1)),
        camvid,
        "train/0001TP_000001.png",
        "trainannot/0001TP_000001.png",
    ),
    "SliceDataset": (
        write_slices,
        slices,
        "train/Img/Subj_9slice_10.png",
        "train/GT/Subj_9slice_10.png",
    ),
    "prepare camvid": (
        lambda root: write_camvid(root, counts=(2, 1, 1)),
        lambda root: prepared("camvid", "--root", str(root), "--allow-partial"),
        "train/0001TP_000001.png",
        "trainannot/0001TP_000001.png",
    ),
    "prepare pennfudan": (
        write_people,
        lambda root: prepared(
            "pennfudan", "--source", str(root), "--out", str(root / "out"), "--allow-partial"
        ),
        "PNGImages/p0.png",
        "PedMasks/p0_mask.png",
    ),
}


ABSENT = ("missing", "a folder", "a FIFO", "a device")
UNSEEN = {"BaseSegDataset": ABSENT, "SliceDataset": ABSENT}  # MMSegmentation lists regular files


def seg_cases(seed: int) -> list[Case]:
    """Folders of images and masks of which one is damaged, missing, of another size or another content."""
    rng, cases = np.random.default_rng(seed), []

    def image_of(data: bytes) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(data)))

    def damages(data: bytes, is_mask: bool) -> dict[str, Callable[[Path], object]]:
        pixels = image_of(data)
        texts = {f"cut {i}": data[:end] for i, end in enumerate(rng.integers(1, len(data) - 12, 6))}
        texts |= {f"flip {i}": flip(rng, data, 33, 12) for i in range(4)}
        texts |= {
            "empty": b"",
            "words": b"no image",
            "a page": b"<html>404</html>",
            "without an end": data[:-12],
            "narrow": encode(Image.fromarray(np.ascontiguousarray(pixels[:, :-3])), "PNG"),
            "large": encode(Image.fromarray(np.repeat(pixels, 2, 0)), "PNG"),
            "of two pages": encode(
                Image.fromarray(pixels), "TIFF", save_all=True, append_images=[Image.fromarray(pixels)]
            ),
        }
        if is_mask:
            deep = pixels.astype(np.uint16) * 300
            colours = np.dstack([pixels, pixels // 2 + 7, pixels])
            texts |= {
                "of colours": encode(Image.fromarray(colours), "PNG"),
                "of another label": encode(Image.fromarray(np.full_like(pixels, 77)), "PNG"),
                "of 16 bits": encode(Image.fromarray(deep), "PNG"),
                "of fractions": encode(Image.fromarray(pixels / np.float32(2)), "TIFF"),
            }

        def of_bytes(text: bytes) -> Callable[[Path], object]:
            return lambda path: path.write_bytes(text)

        found = {what: of_bytes(text) for what, text in texts.items()}
        return found | {
            "missing": lambda path: path.unlink(),
            "a folder": lambda path: (path.unlink(), path.mkdir()),
            "a FIFO": lambda path: (path.unlink(), os.mkfifo(path)),
            "a device": lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
        }

    for which, (write, read, image, mask) in FOLDERS.items():
        with contextlib.ExitStack() as stack:
            root = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "data"
            write(root)
            data = {file: (root / file).read_bytes() for file in (image, mask)}

        def good(place: Path, write=write, read=read):
            write(place / "data")
            return read(place / "data")

        cases.append(Case(f"{which}: good", good, len))
        for kind, file in (("image", image), ("mask", mask)):
            for what, make in damages(data[file], kind == "mask").items():
                if which == "prepare pennfudan" and what in ("of another label", "of 16 bits"):
                    continue  # numbers of other people
                if kind == "image" and what in UNSEEN.get(which, ("missing",)):
                    continue  # a data set of fewer images

                def run(place: Path, make=make, file=file, write=write, read=read):
                    write(place / "data")
                    make(place / "data" / file)
                    return read(place / "data")

                cases.append(Case(f"{which}: {kind} {what}", run, names=Path(file).stem))

        def cluttered(place: Path, write=write, read=read, image=image):
            write(place / "data")
            folder = (place / "data" / image).parent
            (folder / "._hidden.png").write_bytes(b"\0\5\x16\7")
            (folder / ".ipynb_checkpoints").mkdir()
            (folder / "Thumbs.db").write_bytes(b"x")
            return read(place / "data")

        cases.append(Case(f"{which}: clutter", cluttered, len))

        def emptied(place: Path, write=write, read=read, image=image):
            write(place / "data")
            for path in (place / "data" / image).parent.iterdir():
                path.unlink()
            return read(place / "data")

        if which != "BaseSegDataset":  # MMSegmentation's; a run looks before it starts
            cases.append(Case(f"{which}: no images", emptied))
        cases.append(Case(f"{which}: nothing", lambda p, r=read: r(p / "data"), names="data"))
    return cases


# ---------------------------------------------------------------------------------------------- predictors


def library_predictors(seed: int, folder: Path) -> list[Case]:
    """:class:`DetInferencer` and :class:`Segmenter` on files, arrays and folders that do not fit."""
    config = Config.fromfile(DETECTOR)
    preprocessor = {"type": "DetDataPreprocessor", "mean": [0] * 3, "std": [1] * 3, "bgr_to_rgb": True}
    config.model = {"type": "dense.BrightDetector", "data_preprocessor": preprocessor}
    config.test_dataloader.dataset.metainfo = {"classes": CLASSES, "palette": [(255, 255, 0)] * 3}
    for step in config.test_dataloader.dataset.pipeline:
        if step.type == "Resize":
            step.scale = (64, 48)
    torch.save({"state_dict": {"weight": torch.zeros(1)}}, folder / "boxes.pth")
    detect = DetInferencer(config, folder / "boxes.pth", "cpu")
    dataset = {
        "type": "BaseSegDataset",
        "metainfo": {"classes": ("red", "green", "blue"), "palette": [[0, 0, 0]] * 3},
        "pipeline": [MASKS[0], {"type": "Resize", "scale": (64, 32), "keep_ratio": True}, *MASKS[1:]],
    }
    preprocessor = {"type": "SegDataPreProcessor", "mean": [0.0] * 3, "std": [100.0] * 3, "bgr_to_rgb": True}
    config = Config(
        {
            "default_scope": "mmseg",
            "model": {"type": "dense.ColourSegmentor", "data_preprocessor": preprocessor},
            "test_dataloader": {"dataset": dataset},
        }
    )
    torch.save({"state_dict": {"scale": torch.full((1,), 2.0)}}, folder / "labels.pth")
    segment = Segmenter(config, folder / "labels.pth", "cpu")
    return [
        *predicting("DetInferencer", detect, lambda found: len(found["predictions"]) == 1, seed),
        *predicting("Segmenter", segment, lambda found: found.labels.ndim == 2, seed),
    ]


class Toy(nn.Module):
    """Of (B, N, 6) points: numbers of 3 classes, or of the 3 parts of each point."""

    def __init__(self, parts: bool):
        super().__init__()
        self.parts, self.num_categories = parts, 2
        self.linear = nn.Linear(6, 3)

    def forward(self, points, category=None):
        x = self.linear(points)
        return x if self.parts else x.mean(1)


def cloud_predictors(seed: int) -> list[Case]:
    """``Classifier`` and ``PartSegmenter`` of clouds on files, arrays and categories that do not fit."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    cloud: Cloud = make_cloud(rng)
    names = ("a", "b", "c")
    classify = Classifier(Toy(parts=False), device="cpu", classes=names)
    find = PartSegmenter(Toy(parts=True), device="cpu", classes=("x", "y"), parts=names)
    runs: dict[str, tuple[Callable, Callable]] = {
        "clouds' Classifier": (classify, lambda found: abs(found.probabilities.sum() - 1) < 1e-5),
        "PartSegmenter": (
            lambda cloud: find(cloud, "x"),
            lambda found: len(found.labels) == len(found.points),
        ),
    }
    cases = []
    for which, (run, check) in runs.items():
        for name, data in whole_files(cloud).items():
            cases.append(Case(f"{which}: good {name}", reading(run, name, data), check))
            for i, end in enumerate(rng.integers(1, len(data) - 40, 2)):
                may = name.rpartition(".")[2] in ("txt", "csv", "xyz", "obj")
                cases.append(Case(f"{which}: cut {i} {name}", reading(run, name, data[:end]),
                                  check if may else None, may, name))  # fmt: skip
            cases.append(Case(f"{which}: empty {name}", reading(run, name, b""), names=name))
        points = rng.normal(size=(30, 3))
        unit = points / np.linalg.norm(points, axis=1, keepdims=True)
        for what, array, fine in (
            ("points", points, True),
            ("normals", np.hstack([points, unit]), True),
            ("float16", points.astype(np.float16), True),
            ("tensor", torch.from_numpy(points), True),
            ("integers", (points * 99).astype(np.int32), True),
            ("far", points + 5e6, True),
            ("nan", np.where(points > 1, np.nan, points), False),
            ("infinite", np.where(points > 1, np.inf, points), False),
            ("long normals", np.hstack([points, 3 * unit]), False),
            ("normals of 0", np.hstack([points, 0 * unit]), False),
            ("colours", np.hstack([points, rng.uniform(0, 1, (30, 3))]), False),
            ("two columns", points[:, :2], False),
            ("four columns", np.hstack([points, unit[:, :1]]), False),
            ("no points", points[:0], False),
            ("one axis", points.ravel(), False),
            ("complex", points.astype(complex), False),
            ("words", points.astype(str), False),
            ("objects", points.astype(object), False),
            ("truths", points > 0, False),
            ("1e19", points * 1e19, False),
            ("one place", np.zeros((30, 3)), True),
        ):
            cases.append(
                Case(f"{which}: array {what}", lambda p, r=run, a=array: r(a), check if fine else None)
            )
        cases.append(Case(f"{which}: an empty folder", lambda p, r=run: r((p / "in").mkdir() or p / "in")))
        cases.append(Case(f"{which}: an empty list", lambda p, r=run: r([]), lambda found: found == []))
        for what, thing in (("None", None), ("a number", 3), ("a dict", {}), ("bytes", b"a.ply")):
            cases.append(Case(f"{which}: {what}", lambda p, r=run, t=thing: r(t)))
    for what, category in {
        "none": None,
        "unknown": "z",
        "2": 2,
        "-1": -1,
        "a fraction": 0.5,
        "true": True,
        "two of one": ["x", "y"],
        "a list": [["x"]],
    }.items():
        cases.append(Case(f"PartSegmenter: category {what}", lambda p, c=category: find(points, c)))
    return cases
