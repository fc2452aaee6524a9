import random
from collections import Counter

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from dense.registry import DATASETS
from dense.sequence.mosaics import (
    CIFAR10,
    KINDS,
    NUMBERS,
    PLACES,
    AskQuestions,
    ComposeMosaic,
    Mosaics,
    ask,
    list_questions,
    list_words,
)
from pointsuite.engine.errors import UsageError
from pointsuite.engine.randomness import drawing

from .toy import write_photos

TILES = ("frog", "ship", "ship", "cat", "dog", "deer", "ship", "bird", "bird")
PIPELINE = [{"type": "ComposeMosaic"}, {"type": "AskQuestions"}, {"type": "PackMosaic"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos")
    write_photos(path, 10)
    return path


def answers(kind):
    return {question.text: question.answer for question in list_questions(TILES, kind, CIFAR10)}


def test_questions_of_places():
    found = answers("place")
    assert found["what is top left ?"] == "frog" and found["what is middle ?"] == "dog"
    assert found["what is right ?"] == "deer" and found["what is bottom right ?"] == "bird"
    assert len(found) == len(PLACES) == 9


def test_questions_of_numbers():
    found = answers("count")
    assert found["how many ships ?"] == "three" and found["how many deer ?"] == "one"
    assert found["how many trucks ?"] == "zero" and len(found) == 10


def test_questions_of_neighbours_have_one_answer():
    found = answers("beside")
    assert found["what is right of the frog ?"] == "ship" and found["what is below the frog ?"] == "cat"
    assert found["what is above the dog ?"] == "ship" and found["what is left of the deer ?"] == "dog"
    assert "what is above the frog ?" not in found and "what is left of the frog ?" not in found  # outside
    assert not any(name in text for text in found for name in ("ship", "bird", "truck"))  # not just one there
    assert len(found) == 2 + 3 + 4 + 3


@pytest.mark.parametrize("seed", range(3))
def test_asked_questions_differ_and_kinds_take_turns(seed):
    random.seed(seed)
    asked = ask(TILES, 9, KINDS, CIFAR10)
    assert [question.kind for question in asked] == [*KINDS] * 3
    assert len(set(asked)) == 9
    assert all(question.answer == answers(question.kind)[question.text] for question in asked)
    assert {question.kind for question in ask(["cat"] * 9, 6, KINDS, CIFAR10)} == {"place", "count"}


def test_every_word_is_known():
    words = list_words(CIFAR10)
    assert len(words) == len(set(words)) and {*NUMBERS, *CIFAR10, "deer", "ships", "?"} <= {*words}
    for kind in KINDS:
        for question in list_questions(TILES, kind, CIFAR10):
            assert {*question.text.split(), question.answer} <= {*words}


def test_mosaics_depend_on_the_seed_alone(folder):
    options = {"data_root": folder, "split": "test", "length": 5, "pipeline": PIPELINE, "test_mode": True}
    data, again, other = Mosaics(seed=1, **options), Mosaics(seed=1, **options), Mosaics(seed=2, **options)
    _ = again[4]
    assert len(data) == 5
    for i in range(5):
        assert (data[i]["inputs"] == again[i]["inputs"]).all()
        assert data[i]["data_samples"].questions == again[i]["data_samples"].questions
    assert any((data[i]["inputs"] != other[i]["inputs"]).any() for i in range(5))


def test_each_pass_of_the_training_makes_others(folder):
    data = Mosaics(folder, length=2, pipeline=PIPELINE)
    passes = []
    for number in range(2):
        with drawing(0, number, 0, 0):
            passes.append(data[0]["data_samples"].tiles)
    assert passes[0] != passes[1]


def test_tiles_lie_as_they_are_named(folder):
    sample = Mosaics(folder, length=1, pipeline=PIPELINE)[0]
    image, tiles = sample["inputs"], sample["data_samples"].tiles
    assert image.shape == (3, 96, 96) and str(image.dtype) == "torch.uint8"
    colours = {
        name: np.asarray(Image.open(folder / f"train/{name}/0.png")).mean((0, 1)) for name in set(tiles)
    }
    for i, name in enumerate(tiles):
        tile = image[:, 32 * (i // 3) : 32 * (i // 3 + 1), 32 * (i % 3) : 32 * (i % 3 + 1)]
        assert np.abs(tile.numpy().mean((1, 2)) - colours[name]).max() < 6


def test_flips_mirror_single_photographs(folder):
    photos = [(name, str(folder / f"train/{name}/0.png")) for name in CIFAR10[:9]]
    plain, mirrored = (ComposeMosaic(flip=flip)({"photos": photos})["img"] for flip in (0.0, 1.0))
    assert (mirrored[:32, :32] == plain[:32, 31::-1]).all() and (plain != mirrored).any()


def test_shares_of_photographs_are_apart(folder):
    first, last = (Mosaics(folder, length=1, share=share).photos for share in ((0, 0.8), (0.8, 1)))
    assert Counter(map(len, first.values())) == {8: 10} and Counter(map(len, last.values())) == {2: 10}
    assert not {p for paths in first.values() for p in paths} & {p for paths in last.values() for p in paths}


def test_other_classes(folder):
    data = DATASETS.build(
        Config({"type": "Mosaics", "data_root": str(folder), "metainfo": {"classes": ("cat", "ship")},
                    "length": 3, "pipeline": PIPELINE})._cfg_dict.to_dict()
    )  # fmt: skip
    assert {name for i in range(3) for name in data[i]["data_samples"].tiles} == {"cat", "ship"}


def test_bad_input(folder, tmp_path):
    with pytest.raises(ValueError, match="length must be at least 1, found 0"):
        Mosaics(folder, length=0)
    with pytest.raises(ValueError, match=r"share must be a part of \(0, 1\), found \(0.5, 0.5\)"):
        Mosaics(folder, share=(0.5, 0.5))
    with pytest.raises(FileNotFoundError, match="train/airplane: no folder"):
        Mosaics(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"airplane: found no photograph in the part \(0.99, 1\)"):
        Mosaics(folder, share=(0.99, 1))
    with pytest.raises(UsageError, match="kinds must be of .*found 'plase'; did you mean place"):
        AskQuestions(kinds=("plase",))
    with pytest.raises(UsageError, match="found 0 questions"):
        AskQuestions(count=0)
    with pytest.raises(ValueError, match="a mosaic has 9 photographs, found 2"):
        list_questions(["cat", "dog"], "place", CIFAR10)
    write_photos(tmp_path / "large", 1, side=40)
    with pytest.raises(OSError, match="0.png: found 40 x 40 pixels, wanted 32 x 32"):
        Mosaics(tmp_path / "large", length=1, pipeline=PIPELINE)[0]
