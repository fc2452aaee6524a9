"""Three lines of Python from a checkpoint to names."""

import os
import pickle

import h5py
import numpy as np
import pytest
import torch

import pointsuite
from pointsuite.datasets import PointCloudDataset, PointDataSample
from pointsuite.engine.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from pointsuite.registry import MODELS
from pointsuite.transforms import NormalizeUnitSphere

from ..tools.load import load_tool
from ..tools.tiny import CONFIG, NETWORK, OPTIONS


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    short = ["train_cfg.max_epochs=1", "train_dataloader.dataset.pipeline.0.num=128"]
    load_tool("train").main([CONFIG, "--work-dir", str(folder), *OPTIONS, *short])
    return folder / "epoch_1.pth"


@pytest.fixture(scope="module")
def classify(checkpoint):
    return pointsuite.Classifier(checkpoint)


@pytest.fixture(scope="module")
def dataset():
    file = os.path.join(os.path.dirname(CONFIG), "../../data/kicad/kicad.h5")
    pipeline = [{"type": "NormalizeUnitSphere"}, {"type": "PackPoints"}]
    return PointCloudDataset(file, "test", pipeline, classes=["dip", "so"], test_mode=True)


@pytest.fixture(scope="module")
def clouds(dataset):
    """Two clouds (N, 6) as users have them: neither centred nor scaled."""
    infos = [dataset.get_data_info(i) for i in (0, -1)]
    return [np.concatenate([7 * info["points"] + 2, info["normals"]], 1) for info in infos]


def test_checkpoints_say_what_they_are_of_in_plain_data(checkpoint):
    meta = load_checkpoint(checkpoint)["meta"]
    assert meta["model"]["type"] == "PointCloudClassifier"
    assert meta["model"]["network"] == {"type": "RISurConvClassifier", "encoder_depth": 1, **NETWORK}
    assert meta["pipeline"] == [{"type": "NormalizeUnitSphere"}, {"type": "PackPoints"}]
    assert meta["dataset_meta"]["classes"] == ("dip", "so") and meta["dataset_meta"]["num_points"] == 1024


def test_a_whole_data_set_is_no_cloud(classify, tmp_path):
    file = os.path.join(os.path.dirname(CONFIG), "../../data/kicad/kicad.h5")
    with pytest.raises(ValueError, match=r"found [\d,]+ clouds, wanted one of them, as .*kicad.h5:test:0"):
        classify(file)
    assert classify(f"{file}:test:0").name in classify.classes
    with h5py.File(tmp_path / "one.h5", "w") as own, h5py.File(file) as whole:
        own["test/points"] = whole["test/points"][:1]
    assert classify(tmp_path / "one.h5").name in classify.classes
    (tmp_path / "none.h5").write_bytes(b"no")
    with pytest.raises(ValueError, match="none.h5: "):
        classify(tmp_path / "none.h5")


def test_equals_the_run(checkpoint, classify, clouds, dataset):
    network = pointsuite.create_model("risurconv_s_cls", pretrained=checkpoint, **NETWORK).eval()
    with torch.no_grad():
        wanted = network(torch.stack([dataset[i]["inputs"] for i in (0, -1)])).softmax(-1).numpy()
    found = classify(clouds)
    np.testing.assert_allclose([p.probabilities for p in found], wanted, atol=1e-3)
    for prediction, scores in zip(found, wanted, strict=True):
        assert prediction.classes == ("dip", "so") and prediction.label == scores.argmax()
        assert prediction.name == prediction.classes[prediction.label]
        assert prediction.probability == pytest.approx(scores.max(), abs=1e-3)


def test_every_kind_of_input_means_the_same(classify, clouds, tmp_path):
    np.save(tmp_path / "cloud.npy", clouds[0])
    wanted = classify(clouds[0])
    for cloud in (
        torch.from_numpy(clouds[0]),
        clouds[0].astype(np.float64),
        tmp_path / "cloud.npy",
        str(tmp_path / "cloud.npy"),
    ):
        np.testing.assert_allclose(classify(cloud).probabilities, wanted.probabilities, atol=1e-4)
    both = classify(np.stack(clouds))
    assert len(both) == 2 and all(isinstance(p, type(wanted)) for p in both)
    mixed = classify([tmp_path / "cloud.npy", torch.from_numpy(clouds[1][:500]), clouds[0]])
    np.testing.assert_allclose(mixed[0].probabilities, wanted.probabilities, atol=1e-4)
    np.testing.assert_allclose(mixed[2].probabilities, wanted.probabilities, atol=1e-4)
    np.testing.assert_allclose(mixed[1].probabilities, classify(clouds[1][:500]).probabilities, atol=1e-4)
    assert classify([]) == []


def seen(classify, clouds, monkeypatch):
    """What the network is given for clouds."""
    given = []
    with monkeypatch.context() as patch:
        patch.setattr(
            classify.network, "forward", lambda points: given.append(points) or torch.zeros(len(points), 2)
        )
        classify(clouds)
    return given


def test_normals_are_estimated_where_there_are_none(classify, monkeypatch):
    sphere = np.random.default_rng(0).standard_normal((600, 3))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    (given,) = seen(classify, sphere + 5, monkeypatch)
    assert given.shape == (1, 600, 6) and given.dtype == torch.float32
    assert (given[0, :, :3] * given[0, :, 3:]).sum(-1).min() > 0.8  # outward


def test_larger_clouds_are_sampled_and_meshes_too(classify, clouds, monkeypatch, tmp_path):
    (given,) = seen(classify, np.repeat(clouds[0], 3, axis=0), monkeypatch)
    assert given.shape == (1, 1024, 6) and len(given[0].unique(dim=0)) == 1024
    box = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n"
    (tmp_path / "box.obj").write_text(box)
    (given,) = seen(classify, tmp_path / "box.obj", monkeypatch)
    assert given.shape == (1, 1024, 6)
    assert given[0, :, :3].norm(dim=1).max() == pytest.approx(1, abs=1e-5)


def test_batches(checkpoint, clouds, monkeypatch):
    classify = pointsuite.Classifier(checkpoint, batch_size=2)
    five = [clouds[0], clouds[1], clouds[1][:300], clouds[0], clouds[0]]
    assert [len(points) for points in seen(classify, five, monkeypatch)] == [2, 1, 1, 1]
    with pytest.raises(ValueError, match="batch_size must be at least 1, found 0"):
        pointsuite.Classifier(checkpoint, batch_size=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c[:10], r"cloud 0: this network samples 64 points of each cloud, found 10 points"),
        (
            lambda c: [c, c[:10, :3]],
            r"cloud 1: this network samples 64 points of each cloud, found 10 points",
        ),
        (lambda c: c[:, :4], r"cloud 0: found shape \(1024, 4\), wanted \(N, 3\) xyz or \(N, 6\)"),
        (lambda c: c[0], r"cloud 0: found shape \(6,\)"),
        (lambda c: [c[None]], r"cloud 0: found shape \(1, 1024, 6\)"),
        (lambda c: np.where(np.arange(6) == 1, np.nan, c), "cloud 0: .*1024 points that are NaN or infinite"),
        (
            lambda c: np.concatenate([c[:, :3], 40 * c[:, 3:]], 1),
            "normals of length 40 to 40 in columns 4 to 6",
        ),
        (lambda c: c * [1, 1, 1, 0, 0, 0], "cloud 0: found 1024 normals of length 0"),
        (lambda c: np.zeros((0, 3)), "cloud 0: found no points"),
        (lambda c: "no_such_file.ply", "no_such_file.ply: found no such file"),
    ],
)
def test_bad_clouds(classify, clouds, change, message):
    with pytest.raises(ValueError, match=message):
        classify(change(clouds[0]))


def test_other_things_are_no_clouds(classify):
    with pytest.raises(TypeError, match="cloud 0: found a int, wanted a path, or an array"):
        classify(3)
    with pytest.raises(TypeError, match="cloud 1: found a NoneType"):
        classify([torch.randn(100, 3), None])


def altered(checkpoint, path, **changes):
    content = load_checkpoint(checkpoint)
    for key, value in changes.items():
        content["meta"][key] = value
    save_checkpoint({key: content[key] for key in ("meta", "state_dict")}, path)
    return path


def test_nothing_in_a_checkpoint_runs(checkpoint, tmp_path):
    """Neither its config's text, nor a class that only Python knows, nor a pickle."""
    flag = tmp_path / "ran"
    text = f"open({str(flag)!r}, 'w')"
    path = tmp_path / "evil.pth"
    pointsuite.Classifier(altered(checkpoint, path, cfg=text))
    evil, run = {"type": "os.mkdir", "path": str(flag)}, {"type": "PointCloudClassifier"}
    for changes in (
        {"model": {**run, "network": evil}},
        {"model": {**run, "network": {"type": "PointCloudClassifier", "network": evil}}},
        {"model": {**run, "network": {"type": "PointCloudClassifier", "network": [{"a": evil}]}}},
        {"pipeline": [evil]},
    ):
        with pytest.raises(
            CheckpointError, match="has the type 'mkdir', which is not registered in pointsuite"
        ):
            pointsuite.Classifier(altered(checkpoint, path, **changes))
    scope = {"type": "RISurConvClassifier", "_scope_": "antigravity"}
    with pytest.raises(CheckpointError, match="found '_scope_' in its model, wanted plain arguments"):
        pointsuite.Classifier(altered(checkpoint, path, model={**run, "network": scope}))

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(flag),)

    path.write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(CheckpointError):
        pointsuite.Classifier(path)
    assert not flag.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None}, "does not say what network it is of"),
        ({"model": {"network": {"type": "DGCNNClassifier"}}}, "does not say what network it is of"),
        ({"pipeline": None}, r"has no meta\['pipeline'\]"),
        ({"dataset_meta": None}, r"has no names of classes, wanted classes=\[\.\.\.\]"),
        ({"model": "no_such_model"}, "no model 'no_such_model'"),
    ],
)
def test_checkpoints_that_say_too_little(checkpoint, tmp_path, changes, message):
    with pytest.raises((CheckpointError, ValueError), match=message):
        pointsuite.Classifier(altered(checkpoint, tmp_path / "changed.pth", **changes))


def test_converted_weights(checkpoint, clouds, tmp_path):
    """Of tools/convert_checkpoint.py: the network by its name in the zoo, and no names of classes."""
    content = load_checkpoint(checkpoint)
    state = {
        key.removeprefix("network."): value
        for key, value in content["state_dict"].items()
        if key.startswith("network.")
    }
    meta = {"model": "risurconv_s_cls", "model_args": NETWORK}
    save_checkpoint({"state_dict": state, "meta": meta}, tmp_path / "converted.pth")
    classify = pointsuite.Classifier(tmp_path / "converted.pth", classes=["flat", "long"])
    wanted = pointsuite.Classifier(checkpoint)(clouds[0])
    found = classify(clouds[0])
    np.testing.assert_allclose(found.probabilities, wanted.probabilities, atol=1e-5)
    assert found.name == ("flat", "long")[wanted.label] and classify.num_points is None
    with pytest.raises(ValueError, match=r"cloud 0: .* numbers of shape \(2,\), wanted one for each of 3"):
        pointsuite.Classifier(tmp_path / "converted.pth", classes=["a", "b", "c"])(clouds[0])
    save_checkpoint(state, tmp_path / "bare.pth")
    with pytest.raises(CheckpointError, match="does not say what network it is of"):
        pointsuite.Classifier(tmp_path / "bare.pth")


def test_sampling_of_the_pipeline_decides_how_many(checkpoint, clouds, monkeypatch, tmp_path):
    steps = [{"type": "SamplePoints", "num": 200, "method": "first"}, {"type": "NormalizeUnitSphere"}]
    classify = pointsuite.Classifier(altered(checkpoint, tmp_path / "first.pth", pipeline=steps))
    (given,) = seen(classify, clouds[0], monkeypatch)
    # not the first points, which in a file may all lie in one corner
    first = classify._pipeline({"points": clouds[0][:200, :3].astype(np.float32)})["points"]
    assert given.shape == (1, 200, 6) and not np.allclose(given[0, :, :3], first)


def test_folder_with_progress(checkpoint, clouds, tmp_path, capsys):
    for name, cloud in (("b.npy", clouds[1]), ("a.npy", clouds[0])):
        np.save(tmp_path / name, cloud)
    (tmp_path / "notes.md").write_text("no cloud")
    classify = pointsuite.Classifier(checkpoint, progress=True)
    found = classify(tmp_path)
    assert "2/2" in capsys.readouterr().err
    for prediction, wanted in zip(found, classify(clouds), strict=True):
        np.testing.assert_allclose(prediction.probabilities, wanted.probabilities, atol=1e-4)
    (tmp_path / "c.npy").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="c.npy: "):
        classify(tmp_path)
    with pytest.raises(FileNotFoundError, match="a folder without files that end in"):
        classify(tmp_path.parent)


def test_errors_count_clouds_over_batches(checkpoint, clouds):
    classify = pointsuite.Classifier(checkpoint, batch_size=1)
    with pytest.raises(ValueError, match="cloud 2: found shape"):
        classify([*clouds, clouds[0][0]])


def test_work_dir_config_and_network(checkpoint, classify, clouds):
    """All that says what network the weights are of gives the same answer."""
    wanted = classify(clouds[0])
    (config,) = checkpoint.parent.glob("*.py")
    network = pointsuite.create_model("risurconv_s_cls", **NETWORK)
    for arguments in ((checkpoint.parent,), (config, checkpoint), (network, checkpoint.parent)):
        found = pointsuite.Classifier(*arguments)
        assert found.num_points == classify.num_points
        np.testing.assert_allclose(found(clouds[0]).probabilities, wanted.probabilities, atol=1e-5)
    bare = pointsuite.Classifier(network, classes=["a", "b"])  # as loaded above
    np.testing.assert_allclose(bare(clouds[0]).probabilities, wanted.probabilities, atol=1e-5)
    assert bare.num_points is None
    with pytest.raises(ValueError, match="the network: has no names of classes"):
        pointsuite.Classifier(network)
    assert pointsuite.Classifier(checkpoint=checkpoint).classes == ("dip", "so")  # as of old


def test_votes_of_the_run(checkpoint, classify, clouds, tmp_path):
    model = load_checkpoint(checkpoint)["meta"]["model"]
    path = altered(checkpoint, tmp_path / "v.pth", model={**model, "votes": {"num": 1, "scale": (0.5, 0.5)}})
    smaller = pointsuite.Classifier(path)(clouds[0]).probabilities
    assert not np.allclose(smaller, classify(clouds[0]).probabilities, atol=1e-4)


# --------------------------------------------------------------------------------------------------- parts

PARTS = ("pin", "body", "mark")
SEGMENTER = {
    "type": "RISurConvPartSegmenter",
    "num_parts": 3,
    "num_categories": 2,
    "centres": (64, 32),
    "neighbours": (8, 8),
    "channels": (8, 16),
    "up_neighbours": (8, 8),
    "up_channels": (16, 8),
    "mlp_channels": ((8,), ()),
    "embed_channels": 8,
    "head_dims": (8,),
}


@pytest.fixture(scope="module")
def part_checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    model = {"type": "PointCloudPartSegmenter", "network": SEGMENTER}
    meta = {
        "model": model,
        "pipeline": [{"type": "ShufflePoints"}, {"type": "NormalizeUnitSphere"}, {"type": "PackPoints"}],
        "dataset_meta": {"classes": ("dip", "so"), "part_classes": PARTS, "num_points": 600},
    }
    path = tmp_path_factory.mktemp("segmenter") / "run.pth"
    network = MODELS.build(model)
    network.train()(torch.rand(4, 100, 6), [part_sample(i % 2) for i in range(4)])
    save_checkpoint({"meta": meta, "state_dict": network.state_dict()}, path)
    return path


def part_sample(category):
    found = PointDataSample()
    found.gt_label = torch.tensor(category)
    return found


@pytest.fixture(scope="module")
def segment(part_checkpoint):
    return pointsuite.PartSegmenter(part_checkpoint)


def test_parts_of_every_point(segment, clouds):
    """In the order of the points, though the pipeline shuffles; the category decides."""
    cloud = clouds[0][:500].astype(np.float32)
    found = segment(cloud, category="so")
    assert found.labels.shape == (500,) and found.probabilities.shape == (500, 3) and found.parts == PARTS
    assert np.array_equal(found.labels, found.probabilities.argmax(1))
    assert found.names[7] == PARTS[found.labels[7]] and sum(found.count().values()) == 500
    assert np.array_equal(found.points, cloud[:, :3])
    points = np.concatenate([NormalizeUnitSphere()({"points": cloud[:, :3]})["points"], cloud[:, 3:]], 1)
    order = np.random.default_rng(0).permutation(500)
    with torch.no_grad():
        logits = segment.network(torch.from_numpy(points[order])[None], torch.tensor([1]))[0]
    np.testing.assert_allclose(found.probabilities[order], logits.softmax(-1), atol=1e-4)
    assert not np.allclose(found.probabilities, segment(cloud, category=0).probabilities, atol=1e-4)


def test_parts_of_points_that_were_not_sampled(segment, clouds):
    """Each has the answer of the nearest that was."""
    found = segment(clouds[0], category=0)
    assert segment.num_points == 600 and len(found.labels) == 1024
    twice = segment(np.repeat(clouds[0][:600], 2, axis=0), category=0)
    np.testing.assert_allclose(twice.probabilities[::2], twice.probabilities[1::2])
    assert len(np.unique(found.probabilities, axis=0)) <= 600


def test_categories(segment, clouds, tmp_path):
    one, other = segment(clouds, category="so")
    mixed = segment(clouds, category=["so", 0])
    np.testing.assert_allclose(mixed[0].probabilities, one.probabilities, atol=1e-5)
    assert not np.allclose(mixed[1].probabilities, other.probabilities, atol=1e-4)
    for category in (None, 2, "qfn", 0.5):
        with pytest.raises(
            ValueError, match=r"category is .*, wanted a number below 2, or one of \['dip', 'so'\]"
        ):
            segment(clouds[0], category=category)
    with pytest.raises(ValueError, match="found 1 categories for 2 clouds, wanted one for each"):
        segment(clouds, category=["so"])
    np.save(tmp_path / "cloud.npy", clouds[0])
    np.testing.assert_allclose(segment(tmp_path, category=1)[0].probabilities, one.probabilities, atol=1e-4)


def test_parts_need_names_and_their_own_runs(checkpoint, part_checkpoint, clouds, tmp_path):
    with pytest.raises(ValueError, match="is of a PointCloudClassifier, wanted a PointCloudPartSegmenter"):
        pointsuite.PartSegmenter(checkpoint)
    with pytest.raises(ValueError, match="is of a PointCloudPartSegmenter, wanted a PointCloudClassifier"):
        pointsuite.Classifier(part_checkpoint)
    nameless = altered(part_checkpoint, tmp_path / "a.pth", dataset_meta=None)
    with pytest.raises(ValueError, match=r"has no names of parts, wanted parts=\[\.\.\.\]"):
        pointsuite.PartSegmenter(nameless)
    segment = pointsuite.PartSegmenter(nameless, parts=["a", "b"])
    assert segment.classes == ()
    with pytest.raises(
        ValueError, match=r"cloud 0: .* \(1024, 3\), wanted one for each of 1024 points and 2 parts"
    ):
        segment(clouds[0], category=1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(checkpoint):
    with pytest.raises(ValueError, match="device is 'cuda', but PyTorch finds no NVIDIA GPU"):
        pointsuite.Classifier(checkpoint, device="cuda")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_a_gpu(checkpoint, clouds, classify):
    found = pointsuite.Classifier(checkpoint, device="cuda")(clouds)
    for prediction, wanted in zip(found, classify(clouds), strict=True):
        np.testing.assert_allclose(prediction.probabilities, wanted.probabilities, atol=1e-3)


def test_a_config_with_objects_still_saves(tmp_path):
    """What cannot be stored as plain data is left out; training goes on."""
    from pointsuite.engine.runner.resume import _describe_use

    loader = {"dataset": {"pipeline": [lambda sample: sample]}}
    assert _describe_use({"model": {"network": torch.nn.Linear(1, 1)}, "test_dataloader": loader}) == {
        "model": None,
        "pipeline": None,
    }
    assert _describe_use({}) == {"model": None, "pipeline": None}


def test_a_splat_whose_normals_are_zero_gets_others_on_request(checkpoint, clouds, tmp_path):
    """Files of splats hold normals of length 0: refused with the way out, which works for arrays, too."""
    splat = np.concatenate([clouds[0][:, :3], np.zeros((len(clouds[0]), 3))], 1)
    np.save(tmp_path / "splat.npy", splat)
    classify = pointsuite.Classifier(checkpoint, columns="x y z nx ny nz")
    with pytest.raises(ValueError, match="normals of length 0, wanted .* or normals='estimate'"):
        classify(tmp_path / "splat.npy")
    classify = pointsuite.Classifier(checkpoint, columns="x y z nx ny nz", normals="estimate")
    wanted = pointsuite.Classifier(checkpoint)(splat[:, :3])
    for given in (tmp_path / "splat.npy", splat, splat * 0.5):
        assert classify(given).name == wanted.name
    np.testing.assert_allclose(classify(splat).probabilities, wanted.probabilities, atol=1e-6)
    with pytest.raises(ValueError, match="normals is 'guess', wanted 'given' or 'estimate'"):
        pointsuite.Classifier(checkpoint, normals="guess")


def test_points_that_are_nan_are_dropped_on_request(checkpoint, clouds):
    holed = np.concatenate([clouds[0], np.full((9, 6), np.nan)])
    found = pointsuite.Classifier(checkpoint, drop_nan=True)(holed)
    wanted = pointsuite.Classifier(checkpoint)(clouds[0])
    np.testing.assert_allclose(found.probabilities, wanted.probabilities, atol=1e-6)


def test_a_cloud_far_from_the_origin_is_the_cloud_at_the_origin(checkpoint, clouds):
    far = clouds[0].astype(np.float64) + [500_000, 4_649_776, 300, 0, 0, 0]
    classify = pointsuite.Classifier(checkpoint)
    found, wanted = classify(far), classify(clouds[0])
    np.testing.assert_allclose(found.probabilities, wanted.probabilities, atol=1e-3)


@pytest.mark.parametrize("weight", [[1.0, 5.0], torch.tensor([1.0, 5.0])], ids=["list", "tensor"])
def test_weights_of_classes_in_the_loss_go_with_every_use(tmp_path, weight, clouds):
    """It trains, its checkpoint loads in predictors and bare networks, and its dumped config loads again."""
    from pointsuite.engine import command

    options = {"train_cfg.max_epochs": 1, "train_dataloader.dataset.pipeline.0.num": 128, "visualizer": None}
    args = command.build_parser("").parse_args([CONFIG, "--work-dir", str(tmp_path), *OPTIONS])
    cfg = command.load_config(args)
    cfg.merge_from_dict({**options, "experiment_name": f"weights_{type(weight).__name__}"})
    cfg.model.loss = {"type": "CrossEntropyLoss", "weight": weight}
    runner = command.build_runner(cfg)
    assert runner.model.criterion.weight.tolist() == [1, 5]
    runner.train()
    path = tmp_path / "epoch_1.pth"
    assert not any(key.startswith("criterion") for key in load_checkpoint(path)["state_dict"])
    alone, beside = pointsuite.Classifier(path), pointsuite.Classifier(tmp_path)
    np.testing.assert_array_equal(alone(clouds[0]).probabilities, beside(clouds[0]).probabilities)
    pointsuite.create_model("risurconv_s_cls", pretrained=path, **NETWORK)
    dumped = next(tmp_path.glob("*.py"))
    again = command.build_model(command.read_config(dumped))
    assert again.criterion.weight.tolist() == [1, 5]
