import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from torch import nn

from pointsuite.datasets import Clouds, FileInfo, PointCloudDataset, write_clouds
from pointsuite.datasets.layout import encode_normals, encode_points
from pointsuite.evaluation import (
    PROTOCOLS,
    ProtocolResult,
    evaluate_protocols,
    format_protocols,
    is_invariant,
    training_rotation,
)
from pointsuite.models import DGCNNClassifier, PointCloudClassifier, PointNetClassifier, RISurConvClassifier

PIPELINE = [{"type": "NormalizeUnitSphere"}, {"type": "PackPoints"}]


def make_dataset(tmp_path, pipeline=PIPELINE):
    """Sticks along z (class 0) and discs across z (class 1); the normals of all are +z."""
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (12, 32, 3))
    label = np.arange(12) % 2
    points[label == 0, :, :2] *= 0.1
    points[label == 1, :, 2] *= 0.1
    normals = np.tile([0.0, 0, 1], (12, 32, 1))
    clouds = Clouds(encode_points(points), encode_normals(normals), label.astype(np.uint8))
    write_clouds(tmp_path / "toy.h5", {"test": clouds}, FileInfo(("stick", "disc")))
    return PointCloudDataset(tmp_path / "toy.h5", "test", pipeline, test_mode=True)


def invariant(inputs):
    """By the shape's second moments: one large is a stick."""
    points = inputs[..., :3]
    largest = torch.linalg.eigvalsh(points.transpose(1, 2) @ points)[:, 1:]
    stick = largest[:, 1] > 3 * largest[:, 0]
    return torch.stack([stick.float(), 1 - stick.float()], 1)


def upright(inputs):
    """By the extent along z: right as long as shapes stand upright."""
    tall = inputs[..., 2].std(1) > inputs[..., 0].std(1)
    return torch.stack([tall.float(), 1 - tall.float()], 1)


def test_invariant_and_other_network(tmp_path):
    dataset = make_dataset(tmp_path)
    results = evaluate_protocols(invariant, dataset)
    assert list(results) == list(PROTOCOLS) == ["z/z", "z/SO3", "SO3/SO3"]
    assert [result.summary()["overall_accuracy"] for result in results.values()] == [100, 100, 100]
    results = evaluate_protocols(upright, dataset, num_rotations=4)
    assert results["z/z"].summary()["overall_accuracy"] == 100
    assert results["z/SO3"].summary()["overall_accuracy"] < 90
    assert results["z/SO3"].predictions.shape == (4, 12) and results["z/SO3"].labels.shape == (12,)
    assert (results["z/SO3"].predictions != results["SO3/SO3"].predictions).any()  # rotations of its own


def test_each_protocol_has_the_network_of_its_train_rotation(tmp_path):
    dataset = make_dataset(tmp_path)
    results = evaluate_protocols({"z": upright, "SO3": invariant}, dataset)
    accuracy = {name: result.summary()["overall_accuracy"] for name, result in results.items()}
    assert accuracy["z/z"] == accuracy["SO3/SO3"] == 100 > accuracy["z/SO3"]
    assert list(evaluate_protocols({"SO3": invariant}, dataset, ["SO3/SO3"])) == ["SO3/SO3"]


def test_networks_see_rotated_points_and_normals(tmp_path):
    dataset = make_dataset(tmp_path)
    seen = []

    def record(inputs):
        seen.append(inputs.clone())
        return invariant(inputs)

    evaluate_protocols(record, dataset, ["z/z", "z/SO3"], num_rotations=2, batch_size=5)
    assert [len(batch) for batch in seen] == [5, 5, 2] * 4
    z, so3 = (torch.cat(part).view(2, 12, 32, 6).double() for part in (seen[:6], seen[6:]))
    plain = torch.stack([dataset[i]["inputs"] for i in range(12)]).double()
    torch.testing.assert_close(z[..., 2], plain[..., 2].expand(2, -1, -1), atol=1e-6, rtol=0)
    torch.testing.assert_close(z[..., 3:], plain[..., 3:].expand(2, -1, -1, -1), atol=1e-6, rtol=0)
    matrices = []
    for clouds in so3:
        for cloud, reference in zip(clouds, plain, strict=True):
            matrix = torch.linalg.lstsq(reference[:, :3], cloud[:, :3]).solution  # reference @ matrix = cloud
            torch.testing.assert_close(matrix @ matrix.T, torch.eye(3).double(), atol=1e-5, rtol=0)
            torch.testing.assert_close(reference[:, 3:] @ matrix, cloud[:, 3:], atol=1e-5, rtol=0)
            matrices.append(matrix)
    distance = torch.cdist(*[torch.stack(matrices).flatten(1)] * 2) + torch.eye(24)
    assert distance.min() > 0.05  # 24 different rotations


def test_seeds_fix_the_rotations(tmp_path):
    dataset = make_dataset(tmp_path)

    def run(**options):
        return evaluate_protocols(upright, dataset, ["z/SO3"], **options)["z/SO3"].predictions

    np.testing.assert_array_equal(run(), run())
    np.testing.assert_array_equal(run(), run(batch_size=1))
    np.testing.assert_array_equal(run(num_rotations=2), run(num_rotations=5)[:2])
    assert not np.array_equal(run(), run(seed=1))


def test_modules_are_tested_in_eval_mode_and_left_as_they_were(tmp_path):
    class Module(nn.Module):
        def forward(self, inputs):
            assert not self.training and not torch.is_grad_enabled()
            return invariant(inputs)

    class Model(BaseModel):
        def forward(self, inputs, data_samples=None, mode="loss"):
            assert mode == "tensor" and not self.training
            return invariant(inputs)

    dataset = make_dataset(tmp_path)
    for network in (Module(), Model()):
        evaluate_protocols(network, dataset, ["z/z"], num_rotations=1)
        assert network.training
        evaluate_protocols(network.eval(), dataset, ["z/z"], num_rotations=1)
        assert not network.training


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocols": ["z/x"]}, "protocol 'z/x', wanted one of"),
        ({"networks": {"z": invariant}}, r"SO3/SO3: no network trained under SO3, found \['z'\]"),
        ({"num_rotations": 0}, "num_rotations=0, batch_size=32, wanted at least 1"),
        ({"networks": lambda x: x}, r"logits have shape \(12, 32, 6\), wanted \(12, 2\)"),
    ],
)
def test_bad_arguments(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate_protocols(**{"networks": invariant, "dataset": make_dataset(tmp_path), **options})


def test_pipeline_that_rotates_is_refused(tmp_path):
    dataset = make_dataset(tmp_path, [{"type": "RandomRotate", "mode": "so3"}, *PIPELINE])
    with pytest.raises(ValueError, match="the dataset's pipeline rotates"):
        evaluate_protocols(invariant, dataset)


def test_summary_and_table():
    labels = np.array([0, 0, 0, 1])
    predictions = np.array([[0, 0, 0, 1], [0, 0, 0, 0]])  # 100 and 75 overall; 100 and 50 by class
    results = {"z/z": ProtocolResult(labels, predictions, 3)}
    assert results["z/z"].summary() == {
        "overall_accuracy": 87.5,
        "std": 12.5,
        "min": 75.0,
        "max": 100.0,
        "mean_class_accuracy": 75.0,
    }
    header, row = format_protocols(results).splitlines()
    assert header.split()[:2] == ["protocol", "overall"]
    assert row.split() == ["z/z", "87.50", "12.50", "75.00", "100.00", "75.00", "2"]
    assert len(header) == len(row)
    assert format_protocols(results, ["SO3/SO3"]).splitlines()[2].split() == ["SO3/SO3", "not", "trained"]


def test_the_protocols_turn_about_the_axis_that_points_up(tmp_path):
    """A data set with y up: z/z turns about y, and the table says so."""
    dataset = make_dataset(tmp_path)
    dataset.metainfo["up"] = "y"
    seen = []

    def record(clouds):
        seen.append(clouds)
        return torch.zeros(len(clouds), 2)

    results = evaluate_protocols(record, dataset, ["z/z"], num_rotations=1)
    plain = torch.stack([dataset[i]["inputs"] for i in range(len(dataset))])
    turned = torch.cat(seen)
    assert torch.allclose(turned[..., 1], plain[..., 1], atol=1e-5)
    assert not torch.allclose(turned[..., 2], plain[..., 2], atol=1e-2)
    assert format_protocols(results).startswith(
        'rotations "z" are about y, which is up in the data\nprotocol'
    )


def training_config(*steps, **dataset):
    pipeline = [{"type": "NormalizeUnitSphere"}, *steps, {"type": "PackPoints"}]
    return {"train_dataloader": {"dataset": {"type": "PointCloudDataset", "pipeline": pipeline, **dataset}}}


Z, SO3 = {"type": "RandomRotate"}, {"type": "pointsuite.RandomRotate", "mode": "so3"}


@pytest.mark.parametrize(
    ("steps", "wanted"),
    [
        ([Z], "z"),
        ([SO3], "SO3"),
        ([], None),
        ([{**Z, "mode": "none"}], None),
        ([Z, SO3], "SO3"),
        ([{"type": "RandomChoice", "transforms": [[SO3]]}], "SO3"),
        ([{**Z, "axis": 2}], "z"),
        ([{**Z, "axis": 1}], None),  # about another axis than that which points up
        ([{**SO3, "axis": 1}], "SO3"),
    ],
)
def test_the_rotation_of_a_training(steps, wanted):
    config = training_config(*steps)
    wrapped = {"train_dataloader": {"dataset": {"type": "RepeatDataset", **config["train_dataloader"]}}}
    for cfg in (config, wrapped, Config(config), Config(config).pretty_text, Config(wrapped).pretty_text):
        assert training_rotation(cfg) == wanted


def test_the_rotation_of_several_data_sets():
    def both(*configs):
        datasets = [config["train_dataloader"]["dataset"] for config in configs]
        return {"train_dataloader": {"dataset": {"type": "ConcatDataset", "datasets": datasets}}}

    z, so3 = training_config(Z), training_config(SO3)
    assert training_rotation(both(z, z)) == "z" and training_rotation(both(z, so3)) is None
    assert training_rotation(training_config({**Z, "axis": 1}), up="y") == "z"
    assert training_rotation({"train_dataloader": None}) is training_rotation("") is None
    with pytest.raises(ValueError, match="found '(.*)', wanted the text of a config"):
        training_rotation("train_dataloader = dict(")
    assert training_rotation("train_dataloader = open('/etc/passwd')") is None  # read, not run


@pytest.mark.parametrize(
    ("network", "wanted"),
    [
        (lambda: PointNetClassifier(3, global_channels=(16, 16), transform_channels=(16, 16)), False),
        (lambda: DGCNNClassifier(3, channels=(16, 16), embed_channels=16, k=8), False),
        (lambda: RISurConvClassifier(3, width=1), True),
        (lambda: RISurConvClassifier(3, width=1, global_sign="lapack"), False),
    ],
)
def test_invariance_is_measured(network, wanted):
    torch.manual_seed(0)
    network = network()
    state = torch.get_rng_state()
    assert is_invariant(network, 600) is is_invariant(PointCloudClassifier(network), 600) is wanted
    assert network.training and next(network.parameters()).dtype == torch.float32
    assert torch.equal(torch.get_rng_state(), state)
