import numpy as np
import pytest
import torch
from PIL import Image

from dense.registry import DATASETS, TRANSFORMS
from dense.restoration.degradations import imresize
from pointsuite.engine.randomness import drawing

from .toy import write_images


def build(root, pipeline=("PackRestoration",), **options):
    pipeline = [{"type": f"dense.{t}"} if isinstance(t, str) else t for t in pipeline]
    return DATASETS.build(
        {"type": "dense.RestorationDataset", "data_root": str(root), "pipeline": pipeline, **options}
    )


@pytest.fixture
def root(tmp_path):
    write_images(tmp_path / "A", 2, size=(41, 53))
    write_images(tmp_path / "B", 1, size=(40, 40), channels=1)
    return tmp_path


def test_poor_images_made_of_good_ones(root):
    dataset = build(root, gt=["A", "B"], scale=4)
    assert len(dataset) == 3
    item = dataset[1]  # 42 x 52
    sample = item["data_samples"]
    gt = np.asarray(Image.open(root / "A/1.png"))[:40, :52]
    np.testing.assert_array_equal(sample.gt.permute(1, 2, 0), gt)
    np.testing.assert_array_equal(item["inputs"].permute(1, 2, 0), imresize(gt, 1 / 4))
    assert (sample.dataset, sample.index) == ("A", 1) and sample.img_path.endswith("A/1.png")
    grey = dataset[2]
    assert grey["data_samples"].dataset == "B" and grey["inputs"].shape == (3, 10, 10)
    assert grey["inputs"][0].equal(grey["inputs"][2])

    exact = build(root, gt="A", scale=4, quantize=False)[1]["inputs"]
    assert exact.dtype == torch.float32
    np.testing.assert_allclose(exact.permute(1, 2, 0), imresize(gt / 255, 1 / 4), atol=1e-6)
    plain = build(root, gt="A", grey=True)[0]
    assert plain["inputs"].shape == (1, 41, 53) and plain["inputs"].equal(plain["data_samples"].gt)
    larger = build(root, gt="A", scale=2, min_size=80)[0]["data_samples"].gt
    assert larger.shape == (3, 80, 102)  # 103, cut


def test_pairs_of_files(root):
    for name, suffix in (("plain", ""), ("div2k", "x2")):
        (root / name).mkdir()
        for i in range(2):
            gt = np.asarray(Image.open(root / f"A/{i}.png"))
            Image.fromarray(imresize(gt, 0.5)).save(root / name / f"{i}{suffix}.png")  # rounded up: 21 x 27
        item = build(root, gt="A", lq=name, scale=2)[0]
        assert item["inputs"].shape == (3, 20, 26) and item["data_samples"].gt.shape == (3, 40, 52)
        np.testing.assert_array_equal(
            item["inputs"].permute(1, 2, 0), np.asarray(Image.open(root / name / f"0{suffix}.png"))[:20, :26]
        )
    with pytest.raises(OSError, match="found 21 x 27 pixels, wanted 41 x 53: 1/1 of"):
        build(root, gt="A", lq="plain", scale=1)[0]
    (root / "plain/1.png").unlink()
    with pytest.raises(FileNotFoundError, match="plain: found no image 1 or 1x2 for .*A/1.png"):
        build(root, gt="A", lq="plain", scale=2)


def test_length_and_cache(root, monkeypatch):
    dataset = build(root, gt="A", scale=2, length=5, cache=True)
    assert len(dataset) == 5
    first = [dataset[i] for i in range(5)]
    assert [item["data_samples"].index for item in first] == list(range(5))
    assert first[4]["inputs"].equal(first[0]["inputs"]) and not first[4]["inputs"].equal(first[1]["inputs"])
    monkeypatch.setattr(type(dataset), "_read", None)  # nothing is read again
    assert dataset[3]["inputs"].equal(first[1]["inputs"])


def test_random_numbers_depend_on_seed_epoch_index(root):
    pipeline = [{"type": "dense.RandomPatch", "size": 8}, "RandomFlipRotate", "AddNoise", "PackRestoration"]
    dataset = build(root, pipeline, gt="A", length=8, seed=3)
    first = [dataset[i]["inputs"] for i in range(8)]
    assert all(a.equal(dataset[i]["inputs"]) for i, a in reversed(list(enumerate(first))))
    assert not first[0].equal(first[2])  # of one image
    with drawing(0, 1, 0):
        assert not first[0].equal(dataset[0]["inputs"])
    assert not first[0].equal(build(root, pipeline, gt="A", length=8, seed=4)[0]["inputs"])

    noise = build(root, ["AddNoise", "PackRestoration"], gt="A", test_mode=True)
    tested = noise[1]["inputs"]
    with drawing(0, 5, 1):
        again = noise[1]["inputs"]
    assert tested.equal(again) and tested.dtype == torch.float32
    assert (tested - noise[1]["data_samples"].gt / 255).std() * 255 == pytest.approx(25, rel=0.05)


def make_sample(height=24, width=30, scale=3):
    lq = np.arange(height * width * 3).reshape(height, width, 3).astype(np.float32)
    return {"lq": lq, "gt": lq.repeat(scale, 0).repeat(scale, 1), "img_path": "a.png"}


def test_patches_and_turns_keep_pairs_together():
    sample = make_sample()
    patch = TRANSFORMS.build({"type": "dense.RandomPatch", "size": 8})
    turn = TRANSFORMS.build({"type": "dense.RandomFlipRotate"})
    corners, turns = set(), set()
    for _ in range(120):
        found = patch(sample)
        assert found["lq"].shape == (8, 8, 3) and found["gt"].shape == (24, 24, 3)
        corners.add(float(found["lq"][0, 0, 0]))
        found = turn(found)
        np.testing.assert_array_equal(found["gt"], found["lq"].repeat(3, 0).repeat(3, 1))
        turns.add((found["lq"][0, 1, 0] - found["lq"][0, 0, 0], found["lq"][1, 0, 0] - found["lq"][0, 0, 0]))
    assert len(corners) > 60
    assert turns == {(a * 3, b * 90) for a in (1, -1) for b in (1, -1)} | {
        (b * 90, a * 3) for a in (1, -1) for b in (1, -1)
    }
    whole = TRANSFORMS.build({"type": "dense.RandomPatch", "size": 24})(make_sample(24, 24))
    assert whole["lq"].shape == (24, 24, 3)
    with pytest.raises(OSError, match="a.png: found 24 x 30 pixels in the poor image, wanted 25"):
        TRANSFORMS.build({"type": "dense.RandomPatch", "size": 25})(sample)


def test_noise_of_a_range_and_jpeg():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    sample = {"lq": image, "gt": image}
    noise = TRANSFORMS.build({"type": "dense.AddNoise", "sigma": (5, 50)})
    sigmas = [(noise(sample)["lq"] - image / 255).std() * 255 for _ in range(60)]
    assert 4 < min(sigmas) < 15 and 40 < max(sigmas) < 52
    jpeg = TRANSFORMS.build({"type": "dense.CompressJPEG", "quality": (10, 12)})
    assert len({jpeg(sample)["lq"].tobytes() for _ in range(40)}) == 3
    fixed = TRANSFORMS.build({"type": "dense.CompressJPEG", "quality": 10})
    assert fixed(sample)["lq"].tobytes() == fixed(sample)["lq"].tobytes()
    assert fixed(sample)["gt"] is image


def test_errors(root):
    (root / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty: found no image"):
        build(root, gt="empty")
    with pytest.raises(FileNotFoundError, match="missing: no folder"):
        build(root, gt="missing")
    with pytest.raises(ValueError, match="a folder for each in gt"):
        build(root, gt=["A", "B"], lq="A")
    with pytest.raises(ValueError, match="length must be at least 1, found 0"):
        build(root, gt="A", length=0)
    Image.new("RGB", (3, 9)).save(root / "empty/tiny.png")
    with pytest.raises(OSError, match="tiny.png: sides must be at least 4, found 9 x 3"):
        build(root, gt="empty", scale=4)[0]


def test_pairs_go_by_the_path_below_the_folder(tmp_path):
    for i, size in enumerate([(40, 40), (24, 24)]):
        write_images(tmp_path / f"gt/{i:03d}", 1, size=size)
        write_images(tmp_path / f"lq/{i:03d}", 1, size=(size[0] // 2, size[1] // 2))
    dataset = build(tmp_path, gt="gt", lq="lq", scale=2)
    assert [dataset[i]["inputs"].shape for i in range(2)] == [(3, 20, 20), (3, 12, 12)]
    name = next((tmp_path / "lq/000").iterdir())
    name.with_name(f"{name.stem}x2.png").write_bytes(name.read_bytes())
    with pytest.raises(OSError, match="found .* and .*x2.png as its poor image, wanted one"):
        build(tmp_path, gt="gt", lq="lq", scale=2)[0]


@pytest.mark.parametrize("sides", [(40, 40), (20, 20), (8, 10), (12, 10), (80, 80)])
def test_poor_images_of_another_scale_are_refused(tmp_path, sides):
    write_images(tmp_path / "gt", 1, size=(40, 40))
    write_images(tmp_path / "lq", 1, size=sides)
    with pytest.raises(
        OSError, match=rf"found {sides[0]} x {sides[1]} pixels, wanted 10 x 10: 1/4 of .*40 x 40"
    ):
        build(tmp_path, gt="gt", lq="lq", scale=4)[0]
