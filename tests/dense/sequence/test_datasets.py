"""Windows of text and of pictures."""

import numpy as np
import pytest
import torch
from PIL import Image

from dense.sequence.datasets import PixelSequences, TextWindows, to_bytes
from dense.sequence.text import Vocabulary
from pointsuite.engine.errors import UsageError
from pointsuite.engine.randomness import drawing

TEXT = "to be, or not to be" * 10  # 190 characters


def text_file(folder, text=TEXT, **options):
    (folder / "play.txt").write_text(text)
    return TextWindows(folder, "play.txt", **{"context": 8, **options})


def decode(dataset, ids):
    return Vocabulary(dataset.metainfo["vocabulary"]).decode(ids)


def test_the_last_tenth_is_held_out(tmp_path):
    for split, wanted in (("train", TEXT[:171]), ("val", TEXT[171:])):
        dataset = text_file(tmp_path, split=split, test_mode=True)
        assert decode(dataset, dataset.tokens) == wanted
        assert dataset.metainfo["vocabulary"] == tuple(sorted(set(TEXT)))


@pytest.mark.parametrize("context", [3, 8, 18])
def test_each_held_out_character_is_wanted_once(tmp_path, context):
    """Also at the end, where the last window begins earlier."""
    dataset = text_file(tmp_path, split="val", context=context, test_mode=True)
    said = []
    for sample in dataset:
        inputs, targets = sample["inputs"], sample["data_samples"].targets
        assert inputs.shape == targets.shape == (context,)
        wanted = targets != -100
        assert torch.equal(inputs[1:][wanted[:-1]], targets[:-1][wanted[:-1]])
        said += targets[wanted].tolist()
    assert decode(dataset, said) == TEXT[172:]


def test_windows_of_training_follow_the_draw(tmp_path):
    dataset = text_file(tmp_path, length=50, seed=3)
    assert len(dataset) == 50

    def window(number, index):
        with drawing(0, number, index):
            return dataset[index]["inputs"].tolist()

    assert window(0, 7) == window(0, 7)
    starts = {dataset[i]["data_samples"].start for i in range(50)}
    assert len(starts) > 30 and max(starts) <= 171 - 9
    assert any(window(0, i) != window(1, i) for i in range(3))
    sample = dataset[0]
    assert torch.equal(sample["inputs"][1:], sample["data_samples"].targets[:-1])


def test_bytes(tmp_path):
    dataset = text_file(tmp_path, "größer" * 20, split="val", unit="byte", test_mode=True)
    assert dataset.metainfo["vocabulary"] is None
    assert Vocabulary().decode(dataset.tokens) == "größer" * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "vall"}, "split must be one of .*found 'vall'; did you mean val"),
        ({"context": 0}, "context must be at least 1, found 0"),
        ({"length": 0}, "length must be at least 1, found 0"),
        ({"unit": "word"}, "unit must be one of .*found 'word'"),
        (
            {"split": "val", "context": 19},
            "its part 'val' has 19 characters, wanted more than the context of 19",
        ),
    ],
)
def test_bad_options(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        text_file(tmp_path, **options)


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.txt: found no such file"):
        TextWindows(tmp_path, "none.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\xff\xff\xff")
    with pytest.raises(OSError, match=r"binary\.txt: found"):
        TextWindows(tmp_path, "binary.txt")


def test_vocabulary():
    vocabulary = Vocabulary("abc")
    assert vocabulary.encode("cab").tolist() == [2, 0, 1] and vocabulary.decode([2, 0, 1]) == "cab"
    with pytest.raises(ValueError, match="found the character 'd', wanted those of the vocabulary: 'abc'"):
        vocabulary.encode("bad")
    with pytest.raises(ValueError, match="a vocabulary has a character twice"):
        Vocabulary("aba")
    assert len(Vocabulary()) == 256 and Vocabulary().decode([0xC3]) == "\N{REPLACEMENT CHARACTER}"


# ------------------------------------------------------------------------------------------------ pictures


def test_pictures_are_bytes_row_by_row(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    sample = PixelSequences(tmp_path, side=4)[0]
    assert sample["inputs"][0] == 256 and torch.equal(
        sample["inputs"][1:], sample["data_samples"].targets[:-1]
    )
    assert sample["data_samples"].targets.tolist() == pixels.flatten().tolist()


def test_pictures_are_cut_to_squares_and_averaged(tmp_path):
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[:2, 2:4], pixels[:, :2] = 200, 77  # the first columns are cut off
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert to_bytes(tmp_path / "a.png", 2)[..., 0].tolist() == [[200, 0], [0, 0]]
    assert (to_bytes(tmp_path / "a.png", 1) == 50).all()


def test_folders_without_pictures(tmp_path):
    with pytest.raises(FileNotFoundError, match="found no image"):
        PixelSequences(tmp_path)
    with pytest.raises(UsageError, match="side must be at least 1, found 0"):
        PixelSequences(tmp_path, side=0)


def test_every_so_many_th_picture(tmp_path):
    for i in range(5):
        Image.fromarray(np.full((4, 4, 3), i, np.uint8)).save(tmp_path / f"{i}.png")
    dataset = PixelSequences(tmp_path, side=2, every=2)
    assert [int(sample["inputs"][-1]) for sample in dataset] == [0, 2, 4]
    with pytest.raises(UsageError, match="every must be at least 1, found 0"):
        PixelSequences(tmp_path, every=0)
