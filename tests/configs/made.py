"""Any config made small: few layers, small images, and made data in the layout of the data set it names."""

import inspect
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, MODELS, DefaultScope
from PIL import Image
from scipy.io import savemat

from pointsuite.datasets.layout import Clouds, FileInfo, encode_normals, encode_points, write_clouds
from tests.dense.classification.test_configs import write_data as write_classes
from tests.dense.classification.test_datasets import make_cifar, write_files
from tests.dense.detection.coco_toy import write_coco
from tests.dense.gaze.toy import write_osie, write_search
from tests.dense.matching.test_datasets import write_pascal, write_spair
from tests.dense.matching.toy import write_images as write_blobs
from tests.dense.matching.toy import write_willow
from tests.dense.restoration.toy import write_images
from tests.dense.segmentation.data import write_camvid, write_slices
from tests.dense.sequence.toy import write_photos
from tests.dense.video.toy import ABNORMAL, make_frames, write_file, write_folder

SIDE = 64  # of images, at most
WEIGHTS = ("backbone_init_cfg", "init_cfg", "pretrained")  # where files of weights are named
SIZES = ("crop_size", "img_scale", "scale", "scales", "size")
AT_MOST = {
    "channels": 32,
    "conv_out_channels": 32,
    "fc_out_channels": 32,
    "feedforward_channels": 64,
    "groups": 8,
    "hybrid_queries": 20,
    "max_per_img": 10,
    "nms_pre": 50,
    "num_dn_queries": 10,
    "num_layers": 2,
    "num_queries": 12,
    "score_thr": 0,
}
SMALL_VIT = {
    "embed_dims": 24,
    "depth": 1,
    "num_heads": 3,
    "patch_size": 16,
    "img_size": 64,
    "mlp": "mlp",
    "layer_scale_init": 0.0,
    "num_registers": 0,
    "distillation": False,
    "antialias": True,
    "scale_offset": 0.0,
}
# of networks that are large at one block a stage, too
SMALL = {
    "CATs": {"blocks": (2, 4), "grid": 4, "proj_dims": 8, "num_heads": 2},
    "HAT": {
        "arch": {
            "embed_dims": 8,
            "depths": (2,),
            "num_heads": (2,),
            "compress_ratio": 2,
            "squeeze_factor": 4,
        },
        "window_size": 4,
    },
    "VADHybrid": {
        "arch": {"widths": (8, 8, 8), "depth": 1, "num_heads": 2, "ffn_ratio": 1, "kernel_size": 3}
    },
    "TCPA": {"arch": {"trunk": {"type": "dense.ViT", "arch": SMALL_VIT}}},
    "UFC": {"embed_dims": 16, "attention_dims": 16, "num_heads": 2, "cost_side": 4, "depths": 1},
}


def find(node, *keys: str) -> Iterator[dict]:
    """Every dict at or below ``node`` that has one of the keys."""
    if isinstance(node, dict):
        if any(key in node for key in keys):
            yield node
        node = node.values()
    if isinstance(node, Iterable) and not isinstance(node, str):
        for child in node:
            yield from find(child, *keys)


def in_scope(registry, cfg: ConfigDict, scope: str):
    """The class that ``cfg`` names."""
    with DefaultScope.overwrite_default_scope(scope), registry.switch_scope_and_registry(None) as scoped:
        return scoped.get(cfg.type)


# --------------------------------------------------------------------------------------------------- network


def network_name(cfg: Config) -> str:
    """The type of the network, or of the model that is one itself."""
    return cfg.model.get("network", cfg.model).type.rpartition(".")[2]


def shrink(cfg: Config) -> None:
    """One block a stage, few layers and queries, no weights to load, small images, a step and a test."""
    model = cfg.model
    for node in find(model, *WEIGHTS):
        node.update({key: None for key in WEIGHTS if key in node})
    for node in find(model, *AT_MOST):
        node.update(
            {
                key: min(node[key], most)
                for key, most in AT_MOST.items()
                if isinstance(node.get(key), int | float)
            }
        )
    for node in find(model, "type"):
        _shrink_network(node, cfg.default_scope)
    loaders = [cfg[f"{split}_dataloader"] for split in ("train", "val", "test")]
    for node in (*loaders, model.get("data_preprocessor"), model.get("test_cfg")):
        _cap_sizes(node)
    for loader in loaders:
        loader.update(batch_size=min(loader.batch_size, 2), num_workers=0, persistent_workers=False)
    for dataset in find(loaders, "max_arguments"):  # made, not read
        dataset.length = 4
    loaders[0].num_batch_per_epoch = 1
    cfg.train_cfg.update({"max_iters" if "max_iters" in cfg.train_cfg else "max_epochs": 1}, val_interval=1)
    cfg.default_hooks.setdefault("checkpoint", ConfigDict(type="CheckpointHook"))
    cfg.default_hooks.checkpoint.update(interval=-1, save_last=False)


def _shrink_network(node: ConfigDict, scope: str) -> None:
    name = str(node.type).rpartition(".")[2]
    if isinstance(arch := node.get("arch"), str):
        arch = node.arch = dict(in_scope(MODELS, node, scope).archs[arch])
    for part in (node, arch):
        if part and "depths" in part:
            part["depths"] = _at_most_one(part["depths"])
    if node.get("depth") == 101:
        node.depth = 50
    if "tile" in node:
        node.update(tile=16, overlap=4)
    if name == "SyncBN":
        node.type = "BN"
    node.update(SMALL.get(name, {}))
    if name == "OAT":  # whose grid is that of the data
        node.picture_size = (SIDE, SIDE)
        arch.update(embed_dims=16, depth=1, num_heads=2, ffn_dims=16, key_dims=16)
    if name in ("CATs", "UFC"):
        node.backbone.update(depth=18, base_channels=8)


def _at_most_one(depths):
    return min(depths, 1) if isinstance(depths, int) else type(depths)(map(_at_most_one, depths))


def _cap_sizes(node) -> None:
    for part in find(node, *SIZES):
        if part.get("type") == "RandomPatch":
            part.size = 16
        for key in SIZES:
            if key in part:  # what is cut out of an image may come from a larger one
                part[key] = _cap(part[key], SIDE if key in ("crop_size", "size") else SIDE + 8)


def _cap(value, most: int):
    if isinstance(value, list | tuple):
        return type(value)(_cap(item, most) for item in value)
    return min(value, most) if isinstance(value, int) and value < 10_000 else value  # 10_000: no bound


# ------------------------------------------------------------------------------------------------------ data


def use_made_data(cfg: Config, folder: Path) -> None:
    """Write what the config's data sets read below ``folder``, and let all paths of the config lead there."""
    roots = {}
    for split in ("train", "val", "test"):
        for dataset in find(cfg[f"{split}_dataloader"].dataset, "data_root", "data_file"):
            kind = dataset.type.rpartition(".")[2]
            if kind == "PointCloudDataset":
                _write_clouds(cfg, dataset, folder)
                continue
            root = folder / Path(dataset.data_root).name
            roots[dataset.data_root.rstrip("/")] = str(root)
            WRITERS.get(kind, _write_segmentation)(cfg, dataset, root)
    for old in sorted(roots, key=len, reverse=True):  # one may lie in another
        _move(cfg._cfg_dict, old, roots[old])


def _move(node, old: str, new: str) -> None:
    """Paths at or below ``old`` to ``new``, wherever they are in the config."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        if isinstance(value, str):
            if value == old or value.startswith(f"{old}/"):
                node[key] = new + value[len(old) :]
        elif isinstance(value, dict | list):
            _move(value, old, new)


def write_made_clouds(path: Path, classes, parts=0, count=4, points=1024, splits=("train", "test")) -> None:
    """Made clouds of the classes in turn; with ``parts``, points have one of so many."""
    rng = np.random.default_rng(0)

    def clouds():
        xyz = rng.standard_normal((count, points, 3))
        xyz /= np.linalg.norm(xyz, axis=-1, keepdims=True)
        part = rng.integers(0, parts, (count, points)).astype(np.uint8) if parts else None
        label = np.arange(count) % len(classes)
        return Clouds(encode_points(xyz), encode_normals(xyz), label.astype(np.uint8), part=part)

    info = FileInfo(classes=tuple(classes), part_classes=tuple(f"part {i}" for i in range(parts)))
    write_clouds(path, {split: clouds() for split in splits}, info)


def _write_clouds(cfg: Config, dataset: ConfigDict, folder: Path) -> None:
    path = folder / Path(dataset.data_file).name
    if not path.exists():
        parts = cfg.test_evaluator.get("category_parts", {})
        classes = list(parts) or [f"class {i}" for i in range(cfg.model.network.num_classes)]
        splits = {cfg[f"{split}_dataloader"].dataset.split for split in ("train", "val", "test")}
        count = len({part for of_one in parts.values() for part in of_one})
        write_made_clouds(path, classes, count, 2, 2048, sorted(splits))
    dataset.data_file = str(path)


def _write_restoration(cfg: Config, dataset: ConfigDict, root: Path) -> None:
    scale, good = dataset.get("scale", 1), [dataset.gt] if isinstance(dataset.gt, str) else dataset.gt
    poor = dataset.get("lq") or []
    patch = next((step.size for step in dataset.pipeline if step.type == "RandomPatch"), 16)
    for i, name in enumerate(good):
        if not (root / name).exists():
            write_images(root / name, 2, (patch * scale, patch * scale + 8))
        for path in sorted((root / name).iterdir()) if poor else ():
            lq = root / ([poor] if isinstance(poor, str) else poor)[i] / path.name
            lq.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(path) as image:
                image.resize((-(-image.width // scale), -(-image.height // scale))).save(lq)
    if "length" in dataset:
        dataset.length = 4


def _write_boxes(cfg: Config, dataset: ConfigDict, root: Path) -> None:
    known = in_scope(DATASETS, dataset, "mmdet").METAINFO
    classes = dataset.get("metainfo", known)["classes"]
    box = {"bbox": [8, 6, 40, 36], "segmentation": [[8, 6, 48, 6, 48, 42, 8, 42]]}
    (root / dataset.ann_file).parent.mkdir(parents=True, exist_ok=True)
    write_coco(
        root, [[box], [box, {**box, "bbox": [30, 20, 40, 40]}]], name=dataset.ann_file, classes=classes
    )
    folder = root / dataset.data_prefix.img
    if not folder.exists():
        folder.symlink_to(root / "images")


def _write_segmentation(cfg: Config, dataset: ConfigDict, root: Path) -> None:
    """Any data set of MMSegmentation: its own suffixes, and the list of names if it wants one."""
    defaults = inspect.signature(in_scope(DATASETS, dataset, "mmseg")).parameters
    rng = np.random.default_rng(0)
    for i in range(2):
        for key, name, pixels in (
            ("img_path", "img_suffix", rng.integers(0, 256, (48, SIDE, 3), np.uint8)),
            ("seg_map_path", "seg_map_suffix", rng.integers(0, 3, (48, SIDE), np.uint8)),
        ):
            path = root / dataset.data_prefix[key] / f"{i}{dataset.get(name, defaults[name].default)}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    if dataset.get("ann_file"):
        (root / dataset.ann_file).parent.mkdir(parents=True, exist_ok=True)
        (root / dataset.ann_file).write_text("0\n1\n")


def _write_photographs(cfg: Config, dataset: ConfigDict, root: Path) -> None:
    """Folders of classes, the images of one size where no test resizes them."""
    if any("Crop" in step.type for step in cfg.test_dataloader.dataset.pipeline):
        _once(lambda root: write_classes("imagenet", root))(cfg, dataset, root)
        cfg.model.num_classes = len(list((root / "train").iterdir()))
        return
    names = dataset.get("metainfo", {}).get("classes")
    names = names or [f"class{i}" for i in range(cfg.model.get("num_classes", 2))]
    for split in {cfg[f"{part}_dataloader"].dataset.split for part in ("train", "val", "test")}:
        for i, name in enumerate(names):
            (root / split / name).mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(i).integers(0, 256, (32, 32, 3), np.uint8)
            for k in range(2):
                Image.fromarray(pixels).save(root / split / name / f"{k}.jpg")


def _write_pictures(cfg: Config, dataset: ConfigDict, root: Path) -> None:
    for name in dataset.folders:
        write_blobs(root / name, 1)


def _write_spair(root: Path) -> None:
    write_spair(root)
    for split in ("trn", "val"):
        (root / "PairAnnotation" / split).symlink_to(root / "PairAnnotation/test")


def _write_pascal(root: Path) -> None:
    """With keypoints that both images of a pair show."""
    write_pascal(root)
    points = np.random.default_rng(0).uniform(5, 25, (4, 2))
    for name in "ab":
        savemat(root / f"Annotations/bus/{name}.mat", {"kps": points, "bbox": np.array([[4, 4, 28, 28]])})


def _write_avenue(root: Path) -> None:
    for i in range(2):
        write_file(root / f"training_videos/0{i}.avi", make_frames(26, color=True))
    write_folder(root / "testing_videos/01", make_frames(26, color=True))
    _write_labels(root)


def _write_videos(root: Path) -> None:
    for name in ("training/frames/00", "training/frames/01", "testing/frames/01"):
        write_folder(root / name, make_frames(26, color=True))
    _write_labels(root)


def _write_labels(root: Path) -> None:
    (root / "testing").mkdir(exist_ok=True)
    labels = {"01": [int(i in ABNORMAL) for i in range(26)]}
    (root / "testing/frame_labels.json").write_text(json.dumps(labels))


def _write_text(cfg: Config, dataset: ConfigDict, root: Path) -> None:
    """All characters of the network's vocabulary, in turn."""
    root.mkdir(parents=True, exist_ok=True)
    characters = "".join(map(chr, range(48, 48 + cfg.model.network.vocab_size)))
    (root / dataset.file).write_text(characters * 20)


def _write_pixels(cfg: Config, dataset: ConfigDict, root: Path) -> None:
    if not (folder := root / dataset.get("split", "")).exists():
        write_blobs(folder, 2)


def _write_mosaics(cfg: Config, dataset: ConfigDict, root: Path) -> None:
    _once(write_photos)(cfg, dataset, root)
    dataset.length = 4


def _once(write):
    """A writer of whole data sets, which have all splits."""

    def write_once(cfg: Config, dataset: ConfigDict, root: Path) -> None:
        if not root.exists():
            root.mkdir(parents=True)
            write(root)

    return write_once


def _write_classes(root: Path, count: int, images: int) -> None:
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (images, SIDE, SIDE, 3), np.uint8)
        (root / f"class{i}").mkdir(parents=True)
        for k, image in enumerate(pixels):
            Image.fromarray(image).save(root / f"class{i}/{k}.jpg")


def _write_open_set(root: Path) -> None:
    for split in ("train", "test"):
        _write_classes(root / split, 10, 5)


WRITERS = {
    "Avenue": _once(_write_avenue),
    "CamVidDataset": _once(write_camvid),
    "CIFAR": _once(lambda root: write_files(make_cifar(100)[0], root)),
    "CocoDataset": _write_boxes,
    "EuroSAT": _once(lambda root: _write_classes(root, 10, 3)),
    "FashionMNIST": _once(lambda root: write_classes("fashion-mnist", root)),
    "ImageFiles": _write_pictures,
    "ClutterScenes": _write_photographs,
    "ImageFolder": _write_photographs,
    "Mosaics": _write_mosaics,
    "PixelSequences": _write_pixels,
    "OpenSetFolder": _once(_write_open_set),
    "OSIE": _once(write_osie),
    "PFPascal": _once(_write_pascal),
    "PFWillow": lambda cfg, dataset, root: _once(write_willow)(
        cfg, dataset, root / dataset.get("folder", "")
    ),
    "RestorationDataset": _write_restoration,
    "SearchScanpaths": _once(write_search),
    "ShanghaiTech": _once(_write_videos),
    "SliceDataset": _once(write_slices),
    "SPair71k": _once(_write_spair),
    "TextWindows": _write_text,
    "UCSDPed": _once(_write_videos),
}
