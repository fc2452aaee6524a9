"""What is said before a run, and what stops it."""

import pytest
from mmengine.dataset import BaseDataset, ConcatDataset, RepeatDataset
from torch import nn

from pointsuite.engine.errors import UsageError
from pointsuite.engine.runner.preflight import check_names, describe_empty, find_heads, look


class Named(BaseDataset):
    def load_data_list(self):
        return [{"name": "a"}] * 3


def data(*classes, **info):
    return Named(metainfo={"classes": classes, **info}, serialize_data=False)


def model(**counts):
    """A module for each keyword, with as many classes; ``a__b`` is b in a."""
    root = nn.Module()
    for name, count in counts.items():
        *way, last = name.split("__")
        place = root
        for part in way:
            if not hasattr(place, part):
                place.add_module(part, nn.Module())
            place = getattr(place, part)
        head = nn.Module()
        head.num_classes = count
        place.add_module(last, head)
    return root


@pytest.mark.parametrize(
    ("counts", "where"),
    [
        ({"bbox_head": 2}, "bbox_head"),
        ({"roi_head__bbox_head": 2, "rpn_head": 1}, "roi_head.bbox_head"),
        ({"roi_head__mask_head": 2, "roi_head__semantic_head": 183}, "roi_head.mask_head"),
        ({"decode_head": 3, "auxiliary_head": 2}, "auxiliary_head"),
        ({"decode_head__1": 2}, "decode_head.1"),
        ({"head": 2}, "head"),
        ({"student__bbox_head": 2}, "student.bbox_head"),
    ],
)
@pytest.mark.parametrize("stage", ["train", "val", "test"])
def test_every_head_has_a_score_for_each_class(counts, where, stage):
    with pytest.raises(
        UsageError, match=rf"model\.{where}\.num_classes: found 2, wanted 3, .* the {stage} data"
    ):
        look(stage, data("a", "b", "c"), model(**counts))
    right = {name: 3 if count < 4 and "rpn" not in name else count for name, count in counts.items()}
    assert (
        f"3 classes, as {next(iter(right)).replace('__', '.')} has: a, b, c"
        in look(stage, data("a", "b", "c"), model(**right))[0]
    )


def test_the_last_layer_of_a_network_without_a_number():
    network = nn.Module()
    network.network = nn.Module()
    network.network.head = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 5))
    assert find_heads(network) == [("network.head", 5)]
    with pytest.raises(
        UsageError, match=r"model\.network\.head: found 5, wanted 2, the classes of the train"
    ):
        look("train", data("a", "b"), network)


def test_open_vocabularies_and_things_pass():
    with_text = model(bbox_head=256, language_model=3)
    assert find_heads(with_text) == []
    look("train", data("a", "b"), with_text)
    look("train", data("a", "b", thing_classes=("a",)), model(bbox_head=1))


def test_wrappers_are_looked_into():
    parts = [data("a", "b"), data("a", "b", "c")]
    joined = ConcatDataset(parts, ignore_keys="classes")
    for dataset in (joined, RepeatDataset(parts[1], 2)):
        with pytest.raises(UsageError, match="found 2, wanted 3"):
            look("train", dataset, model(head=2))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("dog", r"found the string 'dog', wanted a tuple, as \('dog',\)"),
        (("dog", "dog"), "found 'dog' twice"),
        (None, "found None, wanted a tuple"),
        (3, "found 3, wanted a tuple"),
    ],
)
def test_names_that_are_none(names, said):
    with pytest.raises(UsageError, match=rf"metainfo\.classes: {said}"):
        check_names(names)


def test_classes_of_training_and_of_other_data():
    one = model(head=2)
    assert len(look("val", data("a", "b"), one, ("a", "b"))) == 1
    with pytest.raises(
        UsageError, match="val data: found the classes b, a, wanted them in the order of training: a, b"
    ):
        look("val", data("b", "a"), one, ("a", "b"))
    said = look("test", data("cat", "dgo"), one, ("cat", "dog"))[0]
    assert said == "test data: class 1 is 'dgo', where training had 'dog'; did you mean dog?"
    said = look("test", data("cat", "dog"), one, ("cat", "dog", "fox"))[0]
    assert said == "test data: 2 classes, where training had 3"


def test_an_empty_data_set_is_named():
    cfg = {"type": "RepeatDataset", "dataset": {"type": Named, "data_root": "d", "data_prefix": {"img": "i"}}}
    assert describe_empty(cfg).startswith("the data set Named of d/i is empty, wanted at least one sample")
