import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from mmengine.dataset import ClassBalancedDataset, ConcatDataset, RepeatDataset, pseudo_collate
from mmengine.registry import DATASETS as ROOT_DATASETS
from torch.utils.data import DataLoader

import pointsuite.registry  # noqa: F401  registers the scope
from pointsuite.datasets import Clouds, DatasetError, FileInfo, PointCloudDataset, write_clouds
from pointsuite.engine.loader import Loader
from pointsuite.engine.randomness import drawing
from pointsuite.engine.runner import Runner
from pointsuite.engine.runner.loops import EndlessBatches

CLASSES = ("box", "ball", "cone")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    rng = np.random.default_rng(0)
    clouds = Clouds(
        points=rng.integers(-32767, 32768, (6, 16, 3), np.int16),
        normals=np.tile(np.array([[0, 0, 127], [90, 0, -90]], np.int8), (6, 8, 1)),
        label=np.array([0, 1, 2, 0, 1, 2], np.uint8),
        part=rng.integers(0, 2, (6, 16), np.uint8),
        name=np.array([f"shape {i}" for i in range(6)]),
    )
    path = tmp_path_factory.mktemp("data") / "clouds.h5"
    write_clouds(path, {"train": clouds}, FileInfo(CLASSES, ("metal", "body")))
    return path


def draw(sample):
    """A pipeline that yields the first random number of the sample."""
    return {"index": sample["index"], "number": sample["rng"].random()}


def test_a_sample_before_the_pipeline(file):
    dataset = PointCloudDataset(file, "train")
    assert len(dataset) == 6 and len(list(dataset)) == 6
    assert dataset.metainfo["classes"] == CLASSES and dataset.metainfo["part_classes"] == ("metal", "body")
    sample = dataset[4]
    assert (sample["label"], sample["index"], sample["name"]) == (1, 4, "shape 4")
    assert sample["points"].shape == sample["normals"].shape == (16, 3) and sample["part"].shape == (16,)
    assert sample["points"].dtype == sample["normals"].dtype == np.float32
    assert sample["part"].dtype == np.int64 and type(sample["label"]) is int
    np.testing.assert_allclose(np.linalg.norm(sample["normals"], axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(sample["points"], dataset.clouds.points[4] / np.float32(32767))
    assert dataset[-2]["index"] == 4
    for index in (6, -7):
        with pytest.raises(IndexError, match=f"index {index} is out of range, the dataset has 6 clouds"):
            dataset[index]


def in_pass(dataset, number):
    found = []
    for i in range(len(dataset)):
        with drawing(9, number, i):  # the data set's own seed counts
            found.append(dataset[i]["number"])
    return found


def test_randomness_depends_on_seed_pass_and_index_alone(file):
    dataset = PointCloudDataset(file, "train", [draw])
    first = [dataset[i]["number"] for i in range(6)]
    assert len(set(first)) == 6
    assert [dataset[i]["number"] for i in reversed(range(6))] == first[::-1]
    third = in_pass(dataset, 3)
    assert not set(first) & set(third)
    assert in_pass(dataset, 0) == first
    assert in_pass(PointCloudDataset(file, "train", [draw]), 3) == third
    assert PointCloudDataset(file, "train", [draw], seed=1)[0]["number"] != first[0]
    assert third[2] == np.random.default_rng([0, 3, 2]).random()


def test_every_pass_is_as_the_first_when_testing(file):
    dataset = PointCloudDataset(file, "train", [draw], test_mode=True)
    assert in_pass(dataset, 5) == [dataset[i]["number"] for i in range(6)]


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_worker_processes_see_the_pass(file, context):
    dataset = PointCloudDataset(file, "train", [draw])
    loader = Loader(
        dataset, 2, num_workers=1, persistent_workers=True, multiprocessing_context=context, collate_fn=list
    )
    for epoch in (0, 7):
        loader.start(epoch)
        got = [sample["number"] for batch in loader for sample in batch]
        assert got == [np.random.default_rng([0, epoch, i]).random() for i in range(6)]


def test_pickled_copy_is_equal(file):
    dataset = PointCloudDataset(file, "train", [{"type": "ShufflePoints"}, {"type": "PackPoints"}])
    copy = pickle.loads(pickle.dumps(dataset))
    torch.testing.assert_close(copy[3]["inputs"], dataset[3]["inputs"], rtol=0, atol=0)


def test_built_from_a_config_and_batched(file):
    config = {
        "type": "pointsuite.PointCloudDataset",
        "data_file": str(file),
        "split": "train",
        "pipeline": [
            {"type": "pointsuite.NormalizeUnitSphere"},
            {"type": "pointsuite.RandomRotate", "mode": "so3"},
            {"type": "pointsuite.PackPoints"},
        ],
    }
    dataset = ROOT_DATASETS.build(config)
    batch = next(iter(DataLoader(dataset, 4, collate_fn=pseudo_collate)))
    assert [tuple(cloud.shape) for cloud in batch["inputs"]] == [(16, 6)] * 4
    assert [int(sample.gt_label) for sample in batch["data_samples"]] == [0, 1, 2, 0]


def test_chosen_classes_get_new_labels(file):
    dataset = PointCloudDataset(file, "train", classes=["cone", "box"])
    assert dataset.metainfo["classes"] == ("cone", "box")
    assert [(dataset[i]["label"], dataset[i]["name"]) for i in range(len(dataset))] == [
        (1, "shape 0"),
        (0, "shape 2"),
        (1, "shape 3"),
        (0, "shape 5"),
    ]


def test_indices_choose_clouds(file):
    def names(dataset):
        return [dataset[i]["name"] for i in range(len(dataset))]

    dataset = PointCloudDataset(file, "train")
    for indices, wanted in ((2, "01"), (-2, "45"), ([3, 0], "30")):
        wanted = [f"shape {i}" for i in wanted]
        assert names(PointCloudDataset(file, "train", indices=indices)) == wanted
        subset = dataset.get_subset(indices)
        assert names(subset) == wanted and len(subset.clouds.label) == len(wanted)
    assert len(dataset) == 6
    with pytest.raises(DatasetError, match="indices 0: no cloud is left of 6"):
        PointCloudDataset(file, "train", indices=0)


def test_the_wrappers_of_mmengine(file):
    config = {"type": "pointsuite.PointCloudDataset", "data_file": str(file), "split": "train"}
    own = PointCloudDataset(file, "train")
    for part in (config, own):
        joined = ConcatDataset([part, part])
        assert len(joined) == 12 and joined[7]["name"] == "shape 1"
        repeated = RepeatDataset(part, 3)
        assert len(repeated) == 18 and repeated.metainfo["classes"] == CLASSES
    few = PointCloudDataset(file, "train", indices=[0, 3, 1])  # two boxes and a ball
    balanced = ClassBalancedDataset(few, 1.0)
    assert [balanced[i]["label"] for i in range(len(balanced))] == [0, 0, 0, 0, 1, 1]
    assert balanced.get_cat_ids(4) == [1] and balanced.get_data_info(5)["name"] == "shape 1"


def test_24_samples_are_24_draws(file):
    part = {"type": "pointsuite.PointCloudDataset", "data_file": str(file), "split": "train"}
    part = {**part, "indices": 2, "pipeline": [draw]}
    nested = {
        "type": "RepeatDataset",
        "times": 2,
        "dataset": {"type": "ConcatDataset", "datasets": [part] * 2},
    }
    for dataset in (part, nested):
        for sampler in ("DefaultSampler", "InfiniteSampler"):
            loader = Runner.build_dataloader(
                {"dataset": dataset, "sampler": {"type": sampler}, "batch_size": 2}, seed=0
            )
            loader.counts_passes = True
            batches = EndlessBatches(loader)
            assert len({number for _ in range(12) for number in next(batches)["number"]}) == 24


@pytest.mark.parametrize("classes", [["box", "cube"], ["box", "box"], []])
def test_classes_that_the_file_has_not(file, classes):
    with pytest.raises(
        DatasetError, match=r"split 'train': classes \[.*\], wanted different ones of \['box'"
    ):
        PointCloudDataset(file, "train", classes=classes)


def test_bad_files_fail_when_constructed(file, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        PointCloudDataset(tmp_path / "none.h5", "train")
    with pytest.raises(DatasetError, match="no split 'val'"):
        PointCloudDataset(file, "val")
    (tmp_path / "cut.h5").write_bytes(file.read_bytes()[:-500])
    with pytest.raises(DatasetError, match="cut.h5: truncated"):
        PointCloudDataset(tmp_path / "cut.h5", "train")
    with pytest.raises(KeyError, match="NoSuchTransform"):
        PointCloudDataset(file, "train", [{"type": "NoSuchTransform"}])


def test_unlabelled_points_have_a_part_that_losses_ignore(tmp_path):
    """Part 255 is kept in the file and is PyTorch's ignore_index in a sample."""
    rng = np.random.default_rng(0)
    part = np.array([[0, 1, 255, 255]], np.uint8)
    normals = np.tile(np.array([0, 0, 127], np.int8), (1, 4, 1))
    clouds = Clouds(rng.integers(-9, 9, (1, 4, 3)).astype(np.int16), normals, np.array([0]), part=part)
    write_clouds(tmp_path / "a.h5", {"train": clouds}, FileInfo(("box",), ("lid", "side")))
    sample = PointCloudDataset(tmp_path / "a.h5", "train")[0]
    assert sample["part"].tolist() == [0, 1, -100, -100]
    logits = torch.randn(4, 2)
    found = torch.nn.functional.cross_entropy(logits, torch.from_numpy(sample["part"]))
    assert found == torch.nn.functional.cross_entropy(logits[:2], torch.tensor([0, 1]))
    with pytest.raises(DatasetError, match="key 'part', row 0: 254 is out of range"):
        wrong = replace(clouds, part=part - (part == 255).astype(np.uint8))
        write_clouds(tmp_path / "b.h5", {"train": wrong}, FileInfo(("box",), ("lid", "side")))
