import gzip
import random
import struct

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from dense.classification.datasets import FashionMNIST, ImageFolder
from dense.data import seeded
from dense.registry import DATASETS

from .toy import COLORS, write_images


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path / "train", count=2)
    return tmp_path


def labels(dataset):
    return [dataset.get_data_info(i)["gt_label"] for i in range(len(dataset))]


# ------------------------------------------------------------------------------------------ ImageFolder


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
    with pytest.raises(FileNotFoundError, match="train/pink: no folder that can be read"):
        ImageFolder(folder, "train", metainfo={"classes": ["red", "pink"]})
    (folder / "train/empty").mkdir()
    with pytest.raises(FileNotFoundError, match="train/empty: found no image"):
        ImageFolder(folder, "train")
    (folder / "val").mkdir()
    with pytest.raises(FileNotFoundError, match="val: found no folder"):
        ImageFolder(folder, "val")


# ------------------------------------------------------------------------------------------- randomness


def draw(sample):
    numbers = (random.random(), np.random.random())  # noqa: NPY002
    return {"index": sample["sample_idx"], "drawn": torch.tensor(numbers, dtype=torch.float64)}


def drawn(dataset, **kwargs):
    found = [batch["drawn"] for batch in DataLoader(dataset, **kwargs)]
    return torch.cat(found)


def test_random_numbers_depend_on_seed_epoch_and_index_alone(folder):
    dataset = ImageFolder(folder, "train", pipeline=[draw], seed=3)
    first = drawn(dataset)
    assert len(first.unique()) == 12  # all differ
    random.seed(9)
    loader = DataLoader(dataset, batch_size=4, num_workers=1, persistent_workers=True)
    assert torch.cat([batch["drawn"] for batch in loader]).equal(first)
    assert dataset[-1]["drawn"].equal(first[-1])
    dataset.set_epoch(1)
    second = torch.cat([batch["drawn"] for batch in loader])  # the worker is the one of before
    assert not (second == first).any()
    assert drawn(dataset).equal(second)
    assert not (drawn(ImageFolder(folder, "train", pipeline=[draw], seed=4)) == first).any()
    fixed = ImageFolder(folder, "train", pipeline=[draw], seed=3, test_mode=True)
    fixed.set_epoch(1)
    assert drawn(fixed).equal(first)


def test_seeding_leaves_the_generators_as_they_were():
    def numbers():
        return random.random(), np.random.random()  # noqa: NPY002

    random.seed(0), np.random.seed(0)  # noqa: NPY002
    wanted = numbers(), numbers()
    random.seed(0), np.random.seed(0)  # noqa: NPY002
    first = numbers()
    with pytest.raises(KeyError), seeded(1, 2):
        numbers()
        raise KeyError
    assert (first, numbers()) == wanted


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
