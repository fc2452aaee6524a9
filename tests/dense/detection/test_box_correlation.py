"""The macroscopic correlation of boxes: by hand, pair by pair, and by chance."""

import json

import numpy as np
import pytest

import dense  # noqa: F401  before mmcv

pytest.importorskip("mmdet")  # of dense.detection

from dense.detection.box_correlation import (
    MOST_PAIRS,
    Boxes,
    correlate,
    deal_anew,
    format_table,
    pearson,
    read_coco_boxes,
    summarise,
)

from .coco_toy import CROWD, DROPPED, write_coco


def make(counts, boxes=None, classes=2, seed=0):
    rng = np.random.default_rng(seed)
    total = sum(counts)
    boxes = rng.uniform(0, 500, (total, 4)) if boxes is None else np.array(boxes, np.float64)
    names = tuple(f"class {i}" for i in range(classes))
    return Boxes(boxes, rng.integers(0, classes, total), np.array(counts), names)


def test_pearson_by_hand():
    """(1, 2, 3, 4) rises, (4, 3, 2, 1) falls, (1, -1, -1, 1) does neither, (5, 5, 5, 5) has no direction."""
    boxes = np.array([[1, 2, 3, 4], [4, 3, 2, 1], [1, -1, -1, 1], [5, 5, 5, 5], [20, 40, 60, 80.0]])
    found = pearson(boxes)
    wanted = np.array(
        [[1, -1, 0, 0, 1], [-1, 1, 0, 0, -1], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0], [1, -1, 0, 0, 1]], float
    )
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    # deviations (-1.5, -.5, .5, 1.5) and (-2, 1, -1, 2): sum of products 5, of squares 5 and 10
    found = pearson(np.array([[1, 2, 3, 4], [0, 3, 1, 4]]))
    assert found[0, 1] == pytest.approx(5 / 50**0.5)


def test_correlation_by_hand():
    """An image of three, one of one, which does not count, one of two."""
    first = [[1, 2, 3, 4], [4, 3, 2, 1], [1, -1, -1, 1]]
    data = make([3, 1, 2], [*first, [9, 9, 9, 1], [1, 2, 3, 4], [0, 3, 1, 4]])
    found = correlate(data)
    other = 5 / 50**0.5
    np.testing.assert_allclose(found.mean, [0.5, 0.5, 0, other, other], atol=1e-12)
    np.testing.assert_allclose(found.strongest, [1, 1, 0, other, other], atol=1e-12)
    np.testing.assert_allclose(found.image, [1 / 3, other])
    assert found.labels.tolist() == data.labels[[0, 1, 2, 4, 5]].tolist()


def test_against_numpy_pair_by_pair():
    data = make([4, 0, 2, 4, 1, 7])
    found, start, images = correlate(data), 0, []
    means = []
    for count in data.counts:
        boxes, start = data.boxes[start : start + count], start + count
        if count > 1:
            strength = np.abs(np.corrcoef(boxes))
            means.append((strength.sum(1) - 1) / (count - 1))
            images.append(strength[~np.eye(count, dtype=bool)].mean())
    np.testing.assert_allclose(found.mean, np.concatenate(means))
    np.testing.assert_allclose(found.image, images)


def test_unit_of_length_does_not_matter():
    data = make([3, 5, 2])
    scaled = correlate(data._replace(boxes=7 * data.boxes))
    for values, wanted in zip(scaled, correlate(data), strict=True):
        np.testing.assert_allclose(values, wanted)


def test_parts_make_the_whole(monkeypatch):
    data = make([3] * 50 + [6] * 20)
    whole = correlate(data)
    monkeypatch.setattr("dense.detection.box_correlation.MOST_PAIRS", 30)
    for values, wanted in zip(correlate(data), whole, strict=True):
        np.testing.assert_array_equal(values, wanted)
    assert MOST_PAIRS > 1000


def pairs(data):
    return sorted(zip(data.boxes[:, 0], data.labels, strict=True))


def test_chance():
    """Boxes alike within images, not between them: far more than by chance; unrelated ones: as much."""
    rng = np.random.default_rng(0)
    alike = np.repeat(rng.uniform(0, 500, (400, 4)), 5, axis=0) + rng.normal(0, 2, (2000, 4))
    found, dealt = (
        correlate(x).image.mean() for x in (make([5] * 400, alike), deal_anew(make([5] * 400, alike)))
    )
    assert found > 0.99 and dealt < 0.65
    unrelated = make([5] * 400)
    dealt = deal_anew(unrelated)
    assert correlate(unrelated).image.mean() == pytest.approx(correlate(dealt).image.mean(), abs=0.02)
    assert pairs(dealt) == pairs(unrelated)
    assert np.array_equal(deal_anew(unrelated).boxes, dealt.boxes)
    assert not np.array_equal(deal_anew(unrelated, seed=1).boxes, dealt.boxes)


def test_reading(tmp_path):
    """Centres; images in their order; no crowds, nothing ignored, no box without area."""
    images = [[{"bbox": [10, 20, 30, 40]}], [CROWD], 3, [DROPPED["flat"], DROPPED["ignored"]]]
    path = write_coco(tmp_path, images)
    data = json.loads(path.read_text())
    data["annotations"].reverse()
    path.write_text(json.dumps(data))
    found = read_coco_boxes(path)
    assert found.counts.tolist() == [1, 0, 3, 0] and found.classes == ("red", "green", "blue")
    assert found.boxes[0].tolist() == [25, 40, 30, 40]
    kept = [a for a in data["annotations"] if a["image_id"] == 2]
    assert found.labels[1:].tolist() == [a["category_id"] // 10 for a in kept]
    assert found.boxes[1:, 2].tolist() == [a["bbox"][2] for a in kept]


@pytest.mark.parametrize(
    "text, said",
    [
        ("{", "wanted JSON"),
        ("[1]", r"found \[1\], wanted a dict with images, annotations, categories"),
        ('{"images": []}', "has no images"),
        (
            '{"images": [{"id": 1, "width": 9, "height": 9, "file_name": ""}],'
            '"categories": [{"id": 1, "name": "a"}]}',
            "has no annotations",
        ),
        (
            '{"images": [{"id": 1, "width": 9, "height": 9, "file_name": ""}],'
            '"categories": [{"id": 1, "name": "a"}],'
            '"annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, NaN, 4]}]}',
            "annotation 1: bbox: found",
        ),
    ],
)
def test_errors(tmp_path, text, said):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=said) as error:
        read_coco_boxes(tmp_path / "a.json")
    assert "\n" not in str(error.value) and "a.json" in str(error.value)


def test_no_objects(tmp_path):
    data = read_coco_boxes(write_coco(tmp_path, [0, 1]))
    found = correlate(data)
    assert not len(found.image) and not len(found.mean)
    last = format_table(data, found, summarise(found, 3)[None]).splitlines()[-1]
    assert last.split() == ["all", "images", "(MC)", "0", "0", *4 * "-"]


def test_table(tmp_path):
    path = write_coco(tmp_path, [[{"bbox": [1, 2, 3, 4]}, {"bbox": [4, 3, 2, 1], "category_id": 11}], 1])
    data = read_coco_boxes(path)
    found = correlate(data)
    chance = np.stack([summarise(found, 3), summarise(found, 3) + 0.1])
    rows = format_table(data, found, chance).splitlines()
    assert [row.split()[0] for row in rows] == ["class", "red", "green", "all", "all"]
    # centres (2.5, 4) and (5, 3.5): deviations (-.875, .625, -.375, .625) and (2.125, .625, -.875, -1.875)
    strength = abs(-2.3125 / (1.6875 * 9.1875) ** 0.5)
    for row in rows[1:4]:
        assert row.split()[-8:] == [f"{strength:.3f}", f"{strength + 0.05:.3f}", "±", "0.050"] * 2
    assert rows[4].split()[3:] == ["1", "2", *rows[3].split()[-4:], "-", "-"]


def test_summary():
    found = correlate(make([3, 3], classes=4))
    rows = summarise(found, 5)
    for i in range(5):
        chosen = found.labels == i
        wanted = [found.mean[chosen].mean(), found.strongest[chosen].mean()] if chosen.any() else [np.nan] * 2
        np.testing.assert_allclose(rows[i], wanted)
    np.testing.assert_allclose(rows[5], [found.mean.mean(), found.strongest.mean()])
    np.testing.assert_allclose(rows[6], [found.image.mean(), np.nan])
