import numpy as np
import pytest
import torch
from PIL import Image

from dense.explain.comparison import all_games, format_games, play_pointing_game
from dense.explain.metrics import (
    PointingGame,
    class_sensitivity,
    mask_of_boxes,
    mean_ranks,
    points_at,
    spearman,
)
from dense.explain.model import ExplainedClassifier
from dense.explain.scenes import ClutterScenes
from dense.explain.visualization import draw_maps

from .test_explain import make_images, make_network


@pytest.fixture
def root(tmp_path):
    for label, name in enumerate(("grey", "light", "white")):
        for split in ("train", "test"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(2):
                pixels = np.full((12, 16, 3), 100 + 50 * label + i, np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{i}.png")
    return tmp_path


def scenes(root, **options):
    options = {"size": (50, 40), "block": 5, "pipeline": [{"type": "PackScene"}], "seed": 3, **options}
    return ClutterScenes(root, split="train", **options)


def test_the_box_is_where_the_object_is(root):
    dataset = scenes(root, num_objects=3, pipeline=[])
    for i in range(len(dataset)):
        item = dataset[i]
        assert item["img"].shape == (40, 50, 3) and len(item["other_labels"]) == 2
        labels = [item["gt_label"], *item["other_labels"]]
        assert sorted(labels) == [0, 1, 2]
        for label, box in zip(labels, [item["gt_box"], *item["other_boxes"]], strict=True):
            left, top, right, bottom = box.astype(int)
            assert (right - left, bottom - top) == (16, 12)
            inside = item["img"][top:bottom, left:right]
            assert np.ptp(inside) == 0 and 100 + 50 * label <= inside.min() <= 101 + 50 * label
        boxes = torch.from_numpy(np.concatenate((item["gt_box"][None], item["other_boxes"])))
        assert mask_of_boxes(boxes, (40, 50)).sum() == 3 * 16 * 12  # none overlap


def test_scenes_follow_from_the_seed(root):
    first, again, other = scenes(root), scenes(root), scenes(root, seed=4)
    assert torch.equal(first[4]["inputs"], again[4]["inputs"])
    assert not torch.equal(first[4]["inputs"], other[4]["inputs"])
    boxes = [first[i]["data_samples"].gt_boxes for i in range(6)]
    assert len({tuple(box[0].tolist()) for box in boxes}) > 1


def test_bad_scenes(root):
    with pytest.raises(ValueError, match="3 pictures do not fit side by side into scenes of \\(20, 20\\)"):
        scenes(root, num_objects=3, size=(20, 20))[0]
    with pytest.raises(ValueError, match="16 x 12 pixels does not fit into \\(10, 40\\)"):
        scenes(root, size=(10, 40))[0]
    with pytest.raises(OSError, match="wanted 14 or more"):
        scenes(root, block=14)[0]
    with pytest.raises(ValueError, match="num_objects 4, wanted at most 3"):
        scenes(root, num_objects=4)[0]
    with pytest.raises(ValueError, match="num_objects 0"):
        scenes(root, num_objects=0)
    with pytest.raises(ValueError, match="size: found"):
        scenes(root, size=(0, 3))


# -------------------------------------------------------------------------------------------------- metrics


def sample(point, label=0, **truth):
    found = torch.zeros(6, 8)
    found[point] = 1
    return {"pred_map": found, "gt_label": label, "gt_boxes": torch.tensor([[2.0, 1, 4, 3]]), **truth}


def test_pointing_game_by_hand():
    metric = PointingGame(by_class=True)
    samples = [sample((1, 2)), sample((2, 3)), sample((3, 3)), sample((2, 4)), sample((1, 3), 2)]
    samples += [sample((5, 5), 2, difficult=[True]), sample((5, 7), 2, difficult=[False])]
    metric.process(None, samples)
    metric.dataset_meta = {"classes": ("a", "b", "c")}
    found = metric.compute_metrics(metric.results)
    assert found == {"accuracy": 50, "accuracy_a": 50, "accuracy_c": 50}
    mask = torch.zeros(6, 8, dtype=torch.bool)
    mask[5, 7] = True
    assert metric.results[0] == (0, True)
    metric.results.clear()
    metric.process(None, [sample((5, 7), gt_mask=mask), sample((0, 0), gt_mask=mask)])
    assert metric.compute_metrics(metric.results)["accuracy"] == 50


def test_tolerance_is_strict():
    mask = mask_of_boxes(torch.tensor([[2.0, 1, 4, 3]]), (6, 8))
    assert points_at((2, 6), mask, 3.01) and not points_at((2, 6), mask, 3)
    assert points_at((1, 2), mask) and not points_at((2, 4), mask)
    assert not points_at((0, 0), torch.zeros(4, 4, dtype=torch.bool), 9)


@pytest.mark.parametrize(
    ("error", "change"),
    [
        ("wanted finite", {"pred_map": torch.full((6, 8), torch.nan)}),
        ("neither gt_boxes nor gt_mask", {"gt_boxes": None}),
        ("found a mask", {"gt_mask": torch.zeros(3, 3, dtype=torch.bool)}),
    ],
)
def test_bad_samples(error, change):
    with pytest.raises(ValueError, match=error):
        PointingGame().process(None, [{**sample((0, 0)), **change}])
    with pytest.raises(ValueError, match="tolerance: found -1"):
        PointingGame(-1)


def test_ranks():
    x = torch.tensor([[3.0, 1, 3, 9]])
    assert mean_ranks(x).tolist() == [[2.5, 1, 2.5, 4]]
    assert spearman(x, x.exp()).tolist() == pytest.approx([1])
    assert spearman(x, -x).tolist() == pytest.approx([-1])
    assert spearman(x, torch.ones(1, 4)).isnan().all()
    a, b = torch.rand(2, 3, 50, generator=torch.Generator().manual_seed(0))
    stats = pytest.importorskip("scipy.stats")
    assert spearman(a, b).tolist() == pytest.approx(
        [stats.spearmanr(x, y)[0] for x, y in zip(a, b, strict=True)]
    )
    with pytest.raises(ValueError, match="wanted both"):
        spearman(a, b[:2])


def test_class_sensitivity():
    network, image = make_network(), make_images()
    assert class_sensitivity(network, image, "centre").tolist() == pytest.approx([1, 1])
    found = class_sensitivity(network, image, "linear_approx", "4")
    assert found.shape == (2,) and (found < 0.999).all()


# --------------------------------------------------------------------------------------------- side by side


def make_model(**options):
    arch = {"embed_dims": (8, 8), "depths": (1, 1), "expansion": 1}
    backbone = {"type": "ResNet", "arch": arch}
    torch.manual_seed(0)
    return ExplainedClassifier(backbone, 3, **options).eval()


def test_the_model_predicts_maps(root):
    model, dataset = make_model(layer="backbone.stages.0", method_options={"smooth": 0.05}), scenes(root)
    batch = {key: [dataset[i][key] for i in range(3)] for key in ("inputs", "data_samples")}
    found = model.test_step(batch)
    metric = PointingGame()
    metric.process(None, [x.to_dict() for x in found])
    assert len(metric.results) == 3 and found[0].pred_map.shape == (40, 50)
    image = model.data_preprocessor(batch)["inputs"]
    wanted = model.predict(image, [type(found[0])() for _ in range(3)])
    assert wanted[0].pred_map.shape == (40, 50)  # of the class that it answers
    with pytest.raises(ValueError, match="method: found 'x'"):
        make_model(method="x")


def test_every_method_plays(root):
    games = all_games(["backbone.stages.0"], ["centre", "random", "norm_grad", "gradient"])
    assert games == [
        ("centre", None),
        ("random", None),
        ("norm_grad", "backbone.stages.0"),
        ("gradient", None),
    ]
    model, dataset = make_model(), scenes(root, num_objects=2)
    found = play_pointing_game(model, dataset, games, batch_size=4, sensitivity=True)
    assert all(0 <= own["accuracy"] <= 100 for own in found.values())
    inside = [mask_of_boxes(dataset[i]["data_samples"].gt_boxes, (40, 50))[19, 24] for i in range(6)]
    hits = torch.tensor(inside).view(3, 2).float().mean(1).mean() * 100
    assert found["centre", None]["accuracy"] == pytest.approx(float(hits))
    assert found["centre", None]["sensitivity"] == pytest.approx(1)
    again = {game: {"accuracy": own["accuracy"] + 2} for game, own in found.items()}
    table = format_games({"a": found, "b": again})
    line = next(line for line in table.splitlines() if line.startswith("| centre"))
    assert line == f"| centre | its own | {hits + 1:.1f} ± 1.4 | 1.000 ± 0.000 |"


def test_drawing(tmp_path):
    image, found = np.zeros((6, 8, 3), np.uint8), np.eye(6, 8)
    out = draw_maps([("a", image, {f"m{i}": found for i in range(8)}, [[1, 1, 3, 3]])], tmp_path / "a.png")
    with Image.open(out) as picture:
        assert picture.width > 2 * picture.height  # two lines of seven panels
    with pytest.raises(ValueError, match="found a map \\(3, 3\\), wanted \\(6, 8\\)"):
        draw_maps([("a", image, {"m": np.zeros((3, 3))}, [])], tmp_path / "a.png")
    with pytest.raises(ValueError, match="found no picture"):
        draw_maps([], tmp_path / "a.png")
