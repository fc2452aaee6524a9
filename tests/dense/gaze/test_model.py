"""The shell, its loss and what it predicts, the walks beside it, pictures and the predictor."""

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.structures import BaseDataElement
from PIL import Image
from torch.nn.functional import cross_entropy

from dense.gaze import ScanpathPredictor
from dense.gaze.baselines import AnotherPerson, CentreWalk, SaliencyWalk, spectral_residual
from dense.gaze.datasets import OSIE
from dense.gaze.metrics import ScanpathSimilarity
from dense.gaze.model import ScaleObjects, ScanpathModel
from dense.gaze.networks.oat import NO_TARGET
from dense.gaze.sample import ScanpathDataSample
from dense.gaze.transforms import cell_centres
from dense.gaze.visualization import ScanpathVisualizer, draw_scanpath, spread

from .toy import make_network, write_osie

GRID = (2, 3)
PIPELINE = [
    {"type": "LoadImage"},
    {"type": "CutObjects", "grid": GRID, "size": (24, 22)},
    {"type": "PackScanpaths"},
]
UNIT = {"type": "dense.ScaleObjects", "scale": "unit"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("osie")
    write_osie(root)
    return root


@pytest.fixture(scope="module")
def data(folder):
    return OSIE(folder, "train", pipeline=PIPELINE)


@pytest.fixture
def batch(data):
    return pseudo_collate([data[0], data[1]])


def make_model(**options):
    return ScanpathModel(make_network(), data_preprocessor=UNIT, **options).eval()


def test_loss_is_that_of_all_steps(batch):
    model = make_model()
    found = model(**model.data_preprocessor(batch), mode="loss")["loss"]
    losses = []
    for objects, sample in zip(batch["inputs"], batch["data_samples"], strict=True):
        for path in sample.gt_paths:
            before = torch.cat((torch.tensor([8]), path))[None]
            logits = model.network(objects[None] / 255, torch.tensor([NO_TARGET]), before)[0]
            losses.append(cross_entropy(logits, torch.cat((path, torch.tensor([6]))), reduction="none"))
    torch.testing.assert_close(found, torch.cat(losses).mean())


def test_samples_of_fewer_people_are_filled(batch):
    model, samples = make_model(), batch["data_samples"]
    samples[1].gt_paths = samples[1].gt_paths[:1]
    before, after = model._teach(samples, torch.device("cpu"))
    assert before.shape == after.shape == (2, 3, 6)
    assert (before[:, :, 0] == 8).all() and (after[1, 1:] == 7).all() and (before[1, 1:, 1:] == 7).all()
    assert model(**model.data_preprocessor(batch), mode="loss")["loss"].isfinite()


@torch.no_grad()
def test_a_prediction_depends_on_its_own_sample(data):
    model = make_model(num_paths=4, max_length=6)
    both = model.test_step(pseudo_collate([data[0], data[1]]))
    (alone,) = model.test_step(pseudo_collate([data[1]]))
    assert [path.tolist() for path in alone.pred_paths] == [path.tolist() for path in both[1].pred_paths]
    assert len(alone.pred_paths) == 4 and all(1 <= len(path) <= 6 for path in alone.pred_paths)
    assert alone.sim == pytest.approx(both[1].sim) and 0 < alone.sim < 1
    centres = cell_centres(alone.pred_paths[0], GRID, (64, 48))
    assert torch.equal(alone.pred_points[0], centres)
    other = make_model(num_paths=4, max_length=6, seed=1).test_step(pseudo_collate([data[1]]))[0]
    assert [path.tolist() for path in other.pred_paths] != [path.tolist() for path in alone.pred_paths]
    (greedy,) = make_model(max_length=6).test_step(pseudo_collate([data[1]]))
    assert len(greedy.pred_paths) == 1


@torch.no_grad()
def test_modes(batch):
    model = make_model(max_length=3)
    scaled = model.data_preprocessor(batch)
    assert model(**scaled).shape == (2, 3, 6, 8)
    assert model(scaled["inputs"]).shape == (2, 1, 1, 8)  # what comes first
    assert [type(s) for s in model(scaled["inputs"], mode="predict")] == [ScanpathDataSample] * 2


def test_scaling():
    objects = torch.tensor([10, 20, 30, 60], dtype=torch.uint8).view(1, 1, 1, 2, 2).expand(1, 2, 3, 2, 2)
    objects = torch.cat((objects, objects[:, :1] * 0 + 9), 1)
    found = ScaleObjects()({"inputs": objects})["inputs"]
    torch.testing.assert_close(found[0, 0, 0].flatten(), torch.tensor([0, 0.2, 0.4, 1.0]))
    assert not found[0, 2].any()  # of one colour
    assert ScaleObjects("unit")({"inputs": objects})["inputs"].max() == pytest.approx(60 / 255)
    assert ScaleObjects("none")({"inputs": objects})["inputs"].max() == 60
    with pytest.raises(ValueError, match="scale must be one of .*found 'image'"):
        ScaleObjects("image")
    with pytest.raises(ValueError, match="found 20 and -1"):
        make_model(num_paths=-1)


# ------------------------------------------------------------------------------------------------- baselines


@pytest.mark.parametrize("kind", [CentreWalk, SaliencyWalk])
def test_walks(folder, data, batch, kind):
    model = kind({"type": "OSIE", "data_root": str(folder), "split": "train"}, num_paths=20)
    first, second = model.test_step(batch)
    lengths = {len(path) for path in model.fixations}
    assert {len(path) for path in first.pred_paths} <= lengths and len(first.pred_paths) == 20
    points = torch.cat(first.pred_points)
    assert (points >= 0).all() and (points <= torch.tensor([64, 48])).all()
    assert {len(times) for times in first.pred_durations} <= lengths
    (again,) = model.test_step(pseudo_collate([data[0]]))
    assert all(torch.equal(x, y) for x, y in zip(first.pred_points, again.pred_points, strict=True))
    assert not torch.equal(first.pred_points[0][:2], second.pred_points[0][:2])
    if kind is CentreWalk:
        known = {tuple(point) for path in model.fixations for point in path[:, :2].tolist()}
        assert {tuple(point) for point in points.tolist()} <= known
    with pytest.raises(ValueError, match="num_paths must be at least 1, found 0"):
        kind(data, num_paths=0)


def test_saliency_finds_what_is_rare():
    picture = np.random.default_rng(0).normal(0, 0.3, (96, 128))
    picture[40:48, 88:98] += 3
    found = spectral_residual(picture)
    assert found.shape == (48, 64) and found.sum() == pytest.approx(1) and found.min() > 0
    row, column = np.unravel_index(found.argmax(), found.shape)
    assert abs(row - 21) <= 3 and abs(column - 46) <= 3
    with pytest.raises(ValueError, match="inhibition must be above 0, found 0"):
        SaliencyWalk([], inhibition=0)


def test_another_person(batch):
    samples = AnotherPerson().test_step(batch)
    assert samples[0].pred_person == [0, 1, 2]
    metric = ScanpathSimilarity()
    metric.process(None, [sample.to_dict() for sample in samples])
    found = metric.compute_metrics(metric.results)
    assert found["delta"] == 0 and found["sequence_score"] < 1 and found["multimatch_duration"] < 1


# -------------------------------------------------------------------------------------------------- pictures


def test_drawn_circles():
    image = np.zeros((60, 80, 3), np.uint8)
    found = draw_scanpath(image, [[20, 30], [60, 30]], [120, 960], scale=4)
    assert found.shape == (240, 320, 3)
    left, right = found[:, :160].any(-1).sum(), found[:, 160:].any(-1).sum()
    assert right > 4 * left > 0
    yellow, red = found[120, 76].astype(int), found[120, 225].astype(int)
    assert yellow[1] > 100 > red[1]
    gridded = draw_scanpath(image, np.empty((0, 2)), grid=(2, 2), scale=1)
    assert gridded[30, 5].any() and gridded[5, 40].any() and not gridded[5, 5].any()
    with pytest.raises(ValueError, match=r"durations must be \(1,\), found \(2,\)"):
        draw_scanpath(image, [[1, 1]], [100, 100])


def test_fixations_of_one_place_are_all_seen():
    points = np.array([[5.0, 5], [9, 9], [5, 5], [5, 5]])
    found = spread(points, 2)
    np.testing.assert_allclose(found, [[5, 5], [9, 9], [7, 5], [6, 5 + 3**0.5]])
    many = spread(np.zeros((14, 2)), 2)
    assert np.linalg.norm(many[7:13], axis=1) == pytest.approx(4)
    assert len(np.unique(many.round(6), axis=0)) == 14


def test_visualizer(batch, tmp_path):
    model = make_model(max_length=4)
    sample = model.test_step(batch)[0]
    objects = batch["inputs"][0].numpy()
    side_by_side = np.concatenate(objects.transpose(0, 2, 3, 1), 1)
    visualizer = ScanpathVisualizer(save_dir=str(tmp_path), vis_backends=[{"type": "LocalVisBackend"}])
    visualizer.add_datasample("a", side_by_side, sample)
    (path,) = tmp_path.rglob("*.png")
    width, height = Image.open(path).size
    assert width == 2 * 640 and height > 480
    sample.set_metainfo({"img_path": None})
    visualizer.add_datasample("b", side_by_side, sample, draw_gt=False)
    assert visualizer.get_image().shape[1] == 66 * 10
    with pytest.raises(ValueError, match="c: has no path of a person and none that is predicted"):
        visualizer.add_datasample("c", side_by_side, ScanpathDataSample(metainfo={"grid": GRID}))
    assert isinstance(sample, BaseDataElement)


# ------------------------------------------------------------------------------------------------- predictor


def test_predictor(folder, data, tmp_path):
    look = ScanpathPredictor(make_model(max_length=5), device="cpu", size=(24, 22))
    path = data.get_data_info(0)["img_path"]
    found = look(path, out=tmp_path / "drawn.png")
    (wanted,) = look.model.test_step(pseudo_collate([data[0]]))
    assert found.objects.tolist() == wanted.pred_paths[0].tolist()
    assert np.array_equal(found.points, wanted.pred_points[0])
    assert Image.open(tmp_path / "drawn.png").size == (640, 480)
    drawn = look(path, num_paths=3)
    assert len(drawn) == 3 and look.model.num_paths == 0
    array = np.asarray(Image.open(path))
    several = look([path, array], target=2)
    assert [len(each.points) for each in several] == [len(each.objects) for each in several]
    assert len(look(folder / "images")) == 10
    with pytest.raises(ValueError, match="target: found 6, wanted -1 to 5"):
        look(path, target=6)
    with pytest.raises(ValueError, match="wanted a single picture"):
        look([path], out="a.png")
    with pytest.raises(ValueError, match="num_paths must be at least 0, found -2"):
        look(path, num_paths=-2)
    bare = ScanpathPredictor(make_network(picture_size=(24, 22)), device="cpu")
    assert bare(path).points.shape[1] == 2


@pytest.mark.slow
def test_it_learns_what_people_do(data):
    """A few paths by heart."""
    torch.manual_seed(0)
    model = make_model(max_length=8)
    batch = pseudo_collate([data[0], data[1]])
    for sample in batch["data_samples"]:
        sample.gt_paths = sample.gt_paths[:1]
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(120):
        loss = model(**model.data_preprocessor(batch), mode="loss")["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    wanted = [sample.gt_paths[0].tolist() for sample in batch["data_samples"]]
    assert [sample.pred_paths[0].tolist() for sample in model.test_step(batch)] == wanted
