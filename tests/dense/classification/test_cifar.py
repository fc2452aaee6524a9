"""CIFAR's binary files, the crop that its recipe wants, and the recipes."""

import io
import random
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from dense.classification.cifar import CIFAR
from dense.classification.transforms import RandomPadCrop
from dense.layers import WeightedConv2d
from dense.layers.weighted_conv import density_parameters
from dense.registry import DATASETS, MODELS
from pointsuite.engine.runner import Runner
from tests.tools.load import load_tool

CONFIGS = Path(__file__).parents[3] / "configs/weighted_conv"
FOLDERS = {10: "cifar-10-batches-bin", 100: "cifar-100-binary"}


def make_files(num_classes, per_file=4, seed=0):
    """{name: bytes} of a small CIFAR, the pictures, and the labels of the training split."""
    rng = np.random.default_rng(seed)
    splits = {
        10: [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"],
        100: ["train.bin", "test.bin"],
    }[num_classes]
    files, images, labels = {}, [], []
    for name in splits:
        pictures = rng.integers(0, 256, (per_file, 3, 32, 32), np.uint8)
        truth = rng.integers(0, num_classes, per_file, np.uint8)
        head = [truth[:, None]] if num_classes == 10 else [np.full((per_file, 1), 255), truth[:, None]]
        files[name] = np.hstack([*head, pictures.reshape(per_file, -1)]).astype(np.uint8).tobytes()
        if "test" not in name:
            images.append(pictures), labels.extend(truth.tolist())
    names = {10: "batches.meta.txt", 100: "fine_label_names.txt"}[num_classes]
    files[names] = "\n".join(f"class_{i}" for i in range(num_classes)).encode() + b"\n\n"
    return files, np.concatenate(images), labels


def write_files(files, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def write_archive(files, folder, num_classes):
    with tarfile.open(folder / f"cifar-{num_classes}-binary.tar.gz", "w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(f"{FOLDERS[num_classes]}/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("form", ["archive", "folder", "files"])
@pytest.mark.parametrize("num_classes", FOLDERS)
def test_reads(tmp_path, num_classes, form):
    files, images, labels = make_files(num_classes)
    if form == "archive":
        write_archive(files, tmp_path, num_classes)
    else:
        write_files(files, tmp_path / FOLDERS[num_classes] if form == "folder" else tmp_path)
    dataset = DATASETS.build(
        {"type": "dense.CIFAR", "data_root": str(tmp_path), "num_classes": num_classes, "pipeline": []}
    )
    assert len(dataset) == len(labels) and dataset.metainfo["classes"][3] == "class_3"
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        item = dataset[i]
        assert (item["img"] == image.transpose(1, 2, 0)).all() and item["gt_label"] == label
    item = CIFAR(tmp_path, num_classes, "test", pipeline=[{"type": "PackImage"}])[-1]
    assert item["inputs"].shape == (3, 32, 32) and item["data_samples"].index == 3


def test_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither cifar-100-binary.tar.gz nor cifar-100-binary/fine"):
        CIFAR(tmp_path)
    with pytest.raises(ValueError, match=r"\[10, 100\], found 20"):
        CIFAR(tmp_path, 20)
    with pytest.raises(ValueError, match="found 'val'"):
        CIFAR(tmp_path, split="val")
    files, _, _ = make_files(100)
    record = files["train.bin"][:3074]
    for data, message in (
        (b"", "found 0 bytes in train.bin, wanted 3074 a picture"),
        (record[:-1], "found 3073 bytes"),
        (record[:1] + b"\x64" + record[2:], "found the label 100 in train.bin, wanted 0 to 99"),
    ):
        write_files({**files, "train.bin": data}, tmp_path)
        with pytest.raises(OSError, match=message):
            CIFAR(tmp_path)
    write_files({**files, "fine_label_names.txt": b"cat dog"}, tmp_path)
    with pytest.raises(OSError, match="found 2 classes in fine_label_names.txt, wanted 100"):
        CIFAR(tmp_path)


def test_bad_archives(tmp_path):
    files, _, _ = make_files(10)
    path = tmp_path / "cifar-10-binary.tar.gz"
    write_archive({k: v for k, v in files.items() if k != "data_batch_4.bin"}, tmp_path, 10)
    with pytest.raises(OSError, match="tar.gz: data_batch_4.bin cannot be read"):
        CIFAR(tmp_path, 10)
    good = path.read_bytes()
    for data in (good[: len(good) // 2], b"nothing", b""):
        path.write_bytes(data)
        with pytest.raises(OSError, match=r"tar\.gz: .* cannot be read from it"):
            CIFAR(tmp_path, 10)


# ------------------------------------------------------------------------------------------------- crop


def test_crop():
    image = np.arange(1, 1 + 6 * 7 * 3, dtype=np.uint8).reshape(6, 7, 3)
    padded = np.zeros((10, 11, 3), np.uint8)
    padded[2:8, 2:9] = image
    wanted = {padded[y : y + 6, x : x + 6].tobytes() for y in range(5) for x in range(6)}
    random.seed(0)
    crop = RandomPadCrop(6, padding=2)
    samples = [crop({"img": image, "gt_label": 1}) for _ in range(400)]
    assert {sample["img"].tobytes() for sample in samples} == wanted  # all of them, no other
    assert samples[0]["img_shape"] == (6, 6) and samples[0]["gt_label"] == 1
    assert (RandomPadCrop(6)({"img": image[:, :6]})["img"] == image[:, :6]).all()
    with pytest.raises(ValueError, match="8 x 9 pixels with its border, wanted at least 9"):
        RandomPadCrop(9, padding=1)({"img": image})


# ---------------------------------------------------------------------------------------------- recipes

RECIPES = sorted(path.stem for path in CONFIGS.glob("*cifar100.py"))
SMALL = {
    "VGGCifar": {"embed_dims": (8, 8), "depths": (1, 1)},
    "ResNetCifar": {"embed_dims": (8, 8), "depths": (1, 1)},
}
COUNTS = {"VGGCifar": 14_774_436, "ResNetCifar": 11_220_132}


def test_there_are_recipes():
    assert RECIPES == [
        "resnet18-weighted_cifar100",
        "resnet18_cifar100",
        "vgg16-trainable_cifar100",
        "vgg16-weighted_cifar100",
        "vgg16_cifar100",
    ]


@pytest.mark.parametrize("name", RECIPES)
def test_networks(name):
    cfg = Config.fromfile(CONFIGS / f"{name}.py")
    with DefaultScope.overwrite_default_scope("dense"), torch.device("meta"):
        model = MODELS.build(cfg.model)
    weighted = sum(isinstance(m, WeightedConv2d) for m in model.modules())
    convolutions = {"VGGCifar": 13, "ResNetCifar": 17}[type(model.backbone).__name__]
    assert weighted == (0 if "-" not in name else convolutions)
    learned = len(density_parameters(model))
    assert learned == (convolutions if "trainable" in name else 0)
    assert sum(p.numel() for p in model.parameters()) == COUNTS[type(model.backbone).__name__] + learned


@pytest.mark.filterwarnings("ignore:Detected call of `scheduler.step")
@pytest.mark.parametrize("name", ["vgg16_cifar100", "resnet18-weighted_cifar100"])
def test_rates(name, tmp_path):
    values, _ = load_tool("plot_schedule").follow(Config.fromfile(CONFIGS / f"{name}.py"), 2, str(tmp_path))
    found = [rate for rate, _ in values]
    assert len(found) == 2 * 200 and found[0] == 0.1 and min(found) == found[-1] < 1e-4
    assert found[200] == pytest.approx(0.05, rel=1e-2)
    cfg = Config.fromfile(CONFIGS / f"{name}.py")
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.momentum, optimizer.weight_decay, cfg.train_dataloader.batch_size) == (0.9, 5e-4, 128)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_train_and_test(name, tmp_path):
    write_files(make_files(100, per_file=6)[0], tmp_path)
    cfg = Config.fromfile(CONFIGS / f"{name}.py")
    cfg.model.backbone.arch = SMALL[cfg.model.backbone.type]
    for loader in (cfg.train_dataloader, cfg.test_dataloader, cfg.val_dataloader):
        loader.dataset.data_root = str(tmp_path)
        loader.update(batch_size=3, num_workers=0, persistent_workers=False)
    cfg.train_cfg.update(max_epochs=1, val_interval=1)
    cfg.work_dir, cfg.visualizer, cfg.experiment_name = str(tmp_path / "run"), None, f"{name}_{id(cfg)}"
    runner = Runner.from_cfg(cfg)
    before = [p.detach().clone() for p in runner.model.parameters()]
    runner.train()
    changed = [(b != p).any() for b, p in zip(before, runner.model.parameters(), strict=True)]
    assert sum(changed) >= len(changed) - 2  # a bias before a norm may stay
    assert 0 <= runner.message_hub.get_scalar("val/accuracy/top1").current() <= 100
    dumped = Config.fromfile(next((tmp_path / "run").rglob("*.py")))
    assert dumped.model.backbone.get("density") == cfg.model.backbone.get("density")
    for density in density_parameters(runner.model):
        assert density.abs().max() < 1 and density.item() != pytest.approx(0.7, abs=1e-6)


def test_a_density_by_the_command_line():
    cfg = Config.fromfile(CONFIGS / "vgg16-weighted_cifar100.py")
    cfg.merge_from_dict({"model.backbone.density.3": [0.9]})
    cfg.model.backbone.arch = SMALL["VGGCifar"]
    with DefaultScope.overwrite_default_scope("dense"):
        model = MODELS.build(cfg.model)
    assert model.backbone.stages[0][0].conv.density.item() == pytest.approx(0.9)
