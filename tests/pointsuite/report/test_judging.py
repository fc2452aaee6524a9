from math import inf, nan

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from pointsuite.report import judge
from pointsuite.report.findings import Collector
from pointsuite.report.judging import Verdict

CLASSES = {"classes": ("cup", "dog"), "part_classes": ("leg", "seat", "back")}


def verdict(**fields):
    sample = BaseDataElement()
    sample.set_data(fields)
    return judge(sample.to_dict(), CLASSES)


def boxes(*rows, labels=None, scores=None):
    rows = torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)
    labels = torch.zeros(len(rows), dtype=torch.long) if labels is None else torch.tensor(labels)
    more = {} if scores is None else {"scores": torch.tensor(scores)}
    return InstanceData(bboxes=rows, labels=labels, **more)


def test_labels():
    label = {"gt_label": torch.tensor(0), "pred_label": torch.tensor(1)}
    found = verdict(**label, pred_scores=torch.tensor([0.25, 0.75]))
    assert found.right is False and found.note == "cup → dog (75.0 %)" and found.kind == "samples"
    assert found.pairs == {(0, 1): 1}
    unsure = verdict(**label, pred_scores=torch.tensor([0.45, 0.55]))
    right = verdict(gt_label=torch.tensor(1), pred_label=torch.tensor(1))
    assert found.badness > unsure.badness > right.badness and right.right
    assert verdict(**label, pred_scores=torch.tensor([-3.0, 5.0])).note == "cup → dog"  # no probabilities


def test_pixels_and_points():
    truth, said = torch.tensor([[[0, 0, 1, 255]]]), torch.tensor([[[0, 1, 1, 0]]])
    found = verdict(gt_sem_seg=PixelData(data=truth), pred_sem_seg=PixelData(data=said))
    assert found.pairs == {(0, 0): 1, (0, 1): 1, (1, 1): 1}  # 255 is not to be counted
    assert found.right is None and found.kind == "pixels" and found.badness == pytest.approx(1 / 3)
    assert found.note == "66.7 % of pixels right; most wrong ones: cup → dog"
    found = verdict(gt_part=torch.tensor([0, 2]), pred_part=torch.tensor([0, 2]), gt_label=torch.tensor(1))
    assert found.note == "100.0 % of points right" and found.pairs == {(0, 0): 1, (2, 2): 1}


def test_boxes():
    truth = boxes([0, 0, 10, 10], [20, 20, 40, 40])
    said = boxes(
        [0, 0, 10, 9], [1, 0, 10, 10], [20, 20, 24, 24], [50, 50, 60, 60], scores=[0.9, 0.8, 0.7, 0.1]
    )
    found = verdict(gt_instances=truth, pred_instances=said)
    assert found.note == "1 of 2 found, 2 found where none is" and found.right is False
    assert found.badness == pytest.approx(3 / 4)
    shifted = verdict(gt_instances=truth[:1], pred_instances=boxes([4, 0, 14, 10], scores=[0.9]))
    assert shifted.note == "0 of 1 found, 1 found where none is"  # overlaps by 60 of 140
    unsure = verdict(gt_instances=truth[:1], pred_instances=boxes([0, 0, 10, 10], scores=[0.29]))
    assert unsure.note == "0 of 1 found, 0 found where none is"
    other = boxes([0, 0, 10, 10], labels=[1], scores=[0.9])
    assert verdict(gt_instances=truth[:1], pred_instances=other).badness == 1  # of another class
    nothing = verdict(gt_instances=boxes(), pred_instances=boxes(scores=[]))
    assert nothing.right and nothing.note == "0 of 0 found, 0 found where none is"


def test_images_matches_paths_tokens_clips():
    good = torch.full((3, 2, 2), 51, dtype=torch.uint8)
    assert verdict(gt=good, pred=torch.full((3, 2, 2), 0.3)).note.startswith("PSNR 20.00 dB")
    assert verdict(gt=good, pred=good / 255.0).badness == pytest.approx(-100)
    sample = BaseDataElement(metainfo={"pck_base": 100})
    points = torch.zeros(4, 2)
    sample.set_data({"source_points": points, "pred_points": points + torch.tensor([6.0, 8.0])})
    found = judge(sample.to_dict(), {})
    assert found.right
    assert found.note == "4 of 4 points within 0.1 of the object's size; 10.0 pixels off on average"
    assert verdict(sim=0.25, pred_paths=[torch.tensor([1])]).badness == -0.25
    found = verdict(nats=torch.tensor(np.log(4)), tokens=2, hits=1)
    assert found.note == "1 of 2 tokens right, 1.000 bits a token"
    found = verdict(mse=torch.tensor([0.1, 0.5]), target_index=torch.tensor([7, 8]))
    assert found.note == "frame 8: squared error 0.5" and found.badness == 0.5


def test_what_has_no_truth_has_no_verdict():
    assert verdict(pred_label=torch.tensor(1)) is None
    assert verdict(gt=torch.zeros(1, 2, 2), pred=torch.zeros(1, 4, 4)) is None


def test_the_worst_are_kept_and_all_are_counted():
    collector, kept = Collector(most=3), []
    badness = [0.1, nan, 0.9, 0.5, -1.0, 0.7, inf]
    for place, value in enumerate(badness):
        right = value == -1.0
        collector.add(place, Verdict(value, "", right), lambda place=place: kept.append(place) or place)
    assert [place for _, place in collector.ranked()] == [1, 6, 2]  # what is no number is worst
    assert (collector.samples, collector.wrong) == (7, 6) and 4 not in kept
    other = Collector(most=3)
    other.add(7, Verdict(0.95, "", False, {(0, 0): 2, (0, 1): 1}), lambda: 7)
    collector.merge([other])
    assert [place for _, place in collector.ranked()] == [1, 6, 7] and collector.samples == 8
    collector.merge([other])
    found = collector.findings("Test", {"a": 1}, CLASSES, [])
    assert found.pairs == [[0, 0, 4], [0, 1, 2]] and found.classes == ["cup", "dog"]


def test_of_one_thing_the_worst_is_kept():
    collector = Collector(most=3)
    for place, (badness, key) in enumerate([(1, "a"), (2, "b"), (3, "a"), (2, "a"), (0, None), (0, None)]):
        collector.add(place, Verdict(badness, key=key and (key,), note=""), lambda place=place: place)
    assert [place for _, place in collector.ranked()] == [2, 1, 4] and collector.samples == 6


def test_large_samples_do_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr("pointsuite.report.findings.ROOM", 1000)
    collector = Collector(most=9)
    for place in range(9):
        collector.add(place, Verdict(place, ""), lambda: (torch.zeros(100), BaseDataElement()))
    assert [verdict.badness for verdict, _ in collector.ranked()] == [8, 7]
