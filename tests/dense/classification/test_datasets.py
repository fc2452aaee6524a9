import gzip
import io
import struct
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from dense.classification import datasets
from dense.classification.datasets import CIFAR, EuroSAT, FashionMNIST, ImageFolder
from dense.registry import DATASETS

from .toy import COLORS, write_images


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path / "train", count=2)
    return tmp_path


def labels(dataset):
    return [dataset.get_data_info(i)["gt_label"] for i in range(len(dataset))]


# ------------------------------------------------------------------------------------------ ImageFolder


def test_a_fraction_is_of_each_class(tmp_path):
    write_images(tmp_path, count=5)
    dataset = ImageFolder(tmp_path, fraction=0.5)
    assert labels(dataset) == [0, 0, 1, 1, 2, 2]
    assert [dataset.get_data_info(i)["img_path"][-5:] for i in (0, 1)] == ["0.png", "1.png"]
    assert labels(ImageFolder(tmp_path, fraction=0.01)) == [0, 1, 2]
    with pytest.raises(ValueError, match="fraction must be above 0 and at most 1, found 0"):
        ImageFolder(tmp_path, fraction=0)


def test_folders(folder):
    (folder / "train/green/deeper").mkdir()
    (folder / "train/green/0.png").rename(folder / "train/green/deeper/0.PNG")
    (folder / "train/green/notes.txt").write_text("no image")
    dataset = ImageFolder(folder, "train", pipeline=[{"type": "LoadImage"}, {"type": "PackImage"}])
    assert dataset.metainfo["classes"] == tuple(COLORS)
    assert labels(dataset) == [0, 0, 1, 1, 2, 2] and dataset.get_cat_ids(3) == [1]
    assert dataset.get_data_info(3)["img_path"] == str(folder / "train/green/deeper/0.PNG")
    item = dataset[-1]
    assert item["inputs"].shape == (3, 24, 20) and item["inputs"].float().mean((1, 2)).argmax() == 0
    sample = item["data_samples"]
    assert sample.gt_label == 2 and sample.index == 5 and sample.img_path.endswith("red/1.png")


def test_chosen_classes(folder):
    dataset = ImageFolder(folder / "train", metainfo={"classes": ["red", "blue"]})
    assert labels(dataset) == [0, 0, 1, 1] and dataset.get_data_info(0)["img_path"].endswith("red/0.png")
    assert len(ImageFolder(folder, "train", indices=2)) == 2


@pytest.mark.parametrize(
    ("lines", "classes", "wanted"),
    [
        ("red/0.png 2\nblue/1.png 0\n", None, [2, 0]),
        ("red/0.png red\n\n blue/1.png blue \n", None, [1, 0]),
        ("red/0.png red\nblue/1.png blue", ("red", "blue"), [0, 1]),
        ("a folder/0.png 1", ("x", "y"), [1]),
    ],
)
def test_lists(folder, lines, classes, wanted):
    (folder / "list.txt").write_text(lines)
    metainfo = None if classes is None else {"classes": classes}
    dataset = ImageFolder(folder, "train", folder / "list.txt", metainfo=metainfo)
    assert labels(dataset) == wanted
    assert dataset.metainfo["classes"] == (classes or {3: tuple("012"), 2: ("blue", "red")}[max(wanted) + 1])
    first = lines.split(" 1")[0].split()[0] if "folder" not in lines else "a folder/0.png"
    assert dataset.get_data_info(0)["img_path"] == str(folder / "train" / first)


@pytest.mark.parametrize(
    ("lines", "classes", "message"),
    [
        ("red/0.png", None, "line 1: found 'red/0.png', wanted 'path label'"),
        ("\n", None, "found no line"),
        ("red/0.png 5", ("a", "b"), "found the label 5, wanted 0 to 1"),
        ("red/0.png red", ("a", "b"), "'red' is not one of the 2 classes"),
    ],
)
def test_bad_lists(folder, lines, classes, message):
    (folder / "list.txt").write_text(lines)
    with pytest.raises(OSError, match=f"list.txt.*{message}"):
        ImageFolder(folder, "train", folder / "list.txt", metainfo=classes and {"classes": classes})


def test_bad_folders(folder):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        ImageFolder(folder, "nowhere")
    with pytest.raises(FileNotFoundError, match="train/pink: found no image"):
        ImageFolder(folder, "train", metainfo={"classes": ["pink"]})
    (folder / "train/empty").mkdir()
    with pytest.raises(FileNotFoundError, match="train/empty: found no image"):
        ImageFolder(folder, "train")
    (folder / "val").mkdir()
    with pytest.raises(FileNotFoundError, match="val: found no folder"):
        ImageFolder(folder, "val")


# ----------------------------------------------------------------------------------------- FashionMNIST


def write_idx(path, array, code=8):
    head = bytes((0, 0, code, array.ndim)) + struct.pack(f">{array.ndim}i", *array.shape)
    data = head + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture
def mnist(tmp_path):
    rng = np.random.default_rng(0)
    for prefix, count, suffix in (("train", 5, ".gz"), ("t10k", 3, "")):
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte{suffix}", rng.integers(0, 256, (count, 28, 28)))
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte{suffix}", np.arange(count) * 2)
    return tmp_path


def test_fashion_mnist(mnist):
    train, test = (
        FashionMNIST(mnist, split, pipeline=[{"type": "PackImage"}]) for split in ("train", "test")
    )
    assert labels(train) == [0, 2, 4, 6, 8] and labels(test) == [0, 2, 4]
    assert len(train.metainfo["classes"]) == 10 and train.metainfo["classes"][9] == "ankle boot"
    data = (mnist / "t10k-images-idx3-ubyte").read_bytes()[16:]
    second = torch.frombuffer(bytearray(data[28 * 28 : 2 * 28 * 28]), dtype=torch.uint8).view(28, 28)
    item = test[1]
    assert item["inputs"].equal(second.expand(3, 28, 28)) and item["data_samples"].index == 1
    part = FashionMNIST(mnist, indices=[3, 1])
    assert labels(part) == [6, 2] and (part[0]["img"] == train.images[3][..., None]).all()


def test_fashion_mnist_is_registered(mnist):
    config = {"type": "dense.FashionMNIST", "data_root": str(mnist), "split": "test", "lazy_init": True}
    assert isinstance(DATASETS.build(config), FashionMNIST)


def test_bad_fashion_mnist(mnist):
    with pytest.raises(ValueError, match="found 'val'"):
        FashionMNIST(mnist, "val")
    with pytest.raises(FileNotFoundError, match="train-images-idx3-ubyte: .*dataset-fashion-mnist"):
        FashionMNIST(mnist / "nowhere")
    images, labels = (mnist / f"t10k-{name}-ubyte" for name in ("images-idx3", "labels-idx1"))
    good = images.read_bytes()
    for data, message in (
        (good[:-1], "found 2351 bytes, wanted 2352"),
        (good[:6], "found the head 00 00 08 03 00 00, wanted IDX"),
        (b"", "found the head , wanted IDX"),
        (b"\0\0\x0d\x03" + good[4:], "found the head 00 00 0d 03"),
    ):
        images.write_bytes(data)
        with pytest.raises(OSError, match=f"t10k-images-idx3-ubyte: {message}"):
            FashionMNIST(mnist, "test")
    images.write_bytes(good)
    for values in (np.arange(4), np.array([1, 2, 10])):
        write_idx(labels, values)
        with pytest.raises(
            OSError, match=f"found {len(values)} labels up to {values.max()}, wanted 3 up to 9"
        ):
            FashionMNIST(mnist, "test")
    packed = mnist / "train-images-idx3-ubyte.gz"
    good = packed.read_bytes()
    for data in (good[:-20], b"no gzip", good[:50] + bytes(20) + good[70:]):
        packed.write_bytes(data)
        with pytest.raises(OSError, match="train-images-idx3-ubyte.gz: not a gzip file that can be read"):
            FashionMNIST(mnist)


# ------------------------------------------------------------------------------------------------- CIFAR

CIFAR_FOLDERS = {10: "cifar-10-batches-bin", 100: "cifar-100-binary"}


def make_cifar(num_classes, per_file=4, seed=0):
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
            info = tarfile.TarInfo(f"{CIFAR_FOLDERS[num_classes]}/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("form", ["archive", "folder", "files"])
@pytest.mark.parametrize("num_classes", CIFAR_FOLDERS)
def test_cifar(tmp_path, num_classes, form):
    files, images, labels = make_cifar(num_classes)
    if form == "archive":
        write_archive(files, tmp_path, num_classes)
    else:
        write_files(files, tmp_path / CIFAR_FOLDERS[num_classes] if form == "folder" else tmp_path)
    dataset = DATASETS.build(
        {"type": "dense.CIFAR", "data_root": str(tmp_path), "num_classes": num_classes, "pipeline": []}
    )
    assert len(dataset) == len(labels) and dataset.metainfo["classes"][3] == "class_3"
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        item = dataset[i]
        assert (item["img"] == image.transpose(1, 2, 0)).all() and item["gt_label"] == label
    item = CIFAR(tmp_path, num_classes, "test", pipeline=[{"type": "PackImage"}])[-1]
    assert item["inputs"].shape == (3, 32, 32) and item["data_samples"].index == 3


def test_bad_cifar(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither cifar-100-binary.tar.gz nor cifar-100-binary/fine"):
        CIFAR(tmp_path)
    with pytest.raises(ValueError, match=r"\[10, 100\], found 20"):
        CIFAR(tmp_path, 20)
    with pytest.raises(ValueError, match="found 'val'"):
        CIFAR(tmp_path, split="val")
    files, _, _ = make_cifar(100)
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


def test_bad_cifar_archives(tmp_path):
    files, _, _ = make_cifar(10)
    path = tmp_path / "cifar-10-binary.tar.gz"
    write_archive({k: v for k, v in files.items() if k != "data_batch_4.bin"}, tmp_path, 10)
    with pytest.raises(OSError, match="tar.gz: data_batch_4.bin cannot be read"):
        CIFAR(tmp_path, 10)
    good = path.read_bytes()
    for data in (good[: len(good) // 2], b"nothing", b""):
        path.write_bytes(data)
        with pytest.raises(OSError, match=r"tar\.gz: .* cannot be read from it"):
            CIFAR(tmp_path, 10)


def test_classes_of_another_split(tmp_path):
    for place in ("train/cat", "train/dog", "train/fox", "val/cat", "val/fox", "val/.ipynb_checkpoints"):
        (tmp_path / place).mkdir(parents=True)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / place / "1.png")
    (tmp_path / "val/fox/._1.png").write_bytes(b"resource fork")
    config = {"type": "dense.ImageFolder", "data_root": str(tmp_path), "split": "val"}
    for options in ({"class_split": "train"}, {"metainfo": {"classes": ("cat", "dog", "fox")}}):
        dataset = DATASETS.build({**config, **options})
        assert dataset.metainfo["classes"] == ("cat", "dog", "fox")
        assert [dataset.get_data_info(i)["gt_label"] for i in range(len(dataset))] == [0, 2]
    (tmp_path / "val/wolf").mkdir()
    with pytest.raises(OSError, match="val/wolf: not one of the 3 classes of .*train"):
        DATASETS.build({**config, "class_split": "train"})


def test_an_archive_that_unpacks_to_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "CIFAR_BYTES", 3000)
    write_archive(make_cifar(10)[0], tmp_path, 10)
    with pytest.raises(OSError, match=r"cifar-10-binary\.tar\.gz: .*it unpacks to \d+ bytes, more than 3000"):
        CIFAR(tmp_path, 10, "test")


# ---------------------------------------------------------------------------------------------- EuroSAT


@pytest.fixture
def eurosat(tmp_path):
    for name, count in {"Forest": 13, "River": 7, "AnnualCrop": 20}.items():
        (tmp_path / "2750" / name).mkdir(parents=True)
        for i in range(1, count + 1):
            (tmp_path / f"2750/{name}/{name}_{i}.jpg").touch()
    return tmp_path


def paths_of(data):
    return [data.get_data_info(i)["img_path"] for i in range(len(data))]


def test_published_split_is_that_of_random_split(eurosat):
    order = paths_of(EuroSAT(eurosat, "all"))
    assert order[1].endswith("AnnualCrop_10.jpg") and order[-1].endswith("River_7.jpg")
    generator = torch.Generator().manual_seed(42)
    parts = torch.utils.data.random_split(order, [28, 6, 6], generator)
    for split, part in zip(("train", "val", "test"), parts, strict=True):
        data = EuroSAT(eurosat / "2750", split)
        assert paths_of(data) == list(part)
        assert data.metainfo["classes"] == ("AnnualCrop", "Forest", "River")
    assert paths_of(EuroSAT(eurosat, "test", split_seed=1)) != list(parts[2])


def test_stratified_split_is_of_each_class(eurosat):
    parts = {split: EuroSAT(eurosat, split, "stratified") for split in ("train", "val", "test")}
    counts = {split: np.bincount(labels(data)).tolist() for split, data in parts.items()}
    assert counts == {"train": [14, 9, 4], "val": [3, 1, 1], "test": [3, 3, 2]}
    assert len({path for data in parts.values() for path in paths_of(data)}) == 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "valid"}, "found 'valid'"),
        ({"split_by": "place"}, "'random' or 'stratified', found 'place'"),
    ],
)
def test_eurosat_refusals(eurosat, options, message):
    with pytest.raises(ValueError, match=message):
        EuroSAT(eurosat, **options)
    with pytest.raises(FileNotFoundError):
        EuroSAT(eurosat / "no")
