from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.structures import BaseDataElement

from pointsuite.engine import command
from pointsuite.engine.errors import NonFiniteLossError
from pointsuite.engine.runner import Runner
from pointsuite.registry import MODELS
from pointsuite.report import ReportHook, load_findings
from pointsuite.report.judging import Verdict
from pointsuite.report.samples import Sampler
from tests.pointsuite.engine.conftest import one_thread  # noqa: F401
from tests.pointsuite.engine.toy import ToyModel, make_config, write_config


@MODELS.register_module(force=True)
class LabellingModel(ToyModel):
    """Says which class, as classifiers do."""

    def forward(self, inputs, data_samples, mode="tensor"):
        found = super().forward(inputs, data_samples, mode)
        if mode == "predict":
            for sample in found:
                sample.set_data({"gt_label": torch.tensor(sample.label), "pred_label": torch.tensor(0)})
        return found


def config(work_dir, **options):
    options = {"model.type": "pointsuite.LabellingModel", "default_hooks.logger.interval": 1, **options}
    cfg = make_config(work_dir, **options)
    cfg.visualizer = {"type": "Visualizer", "vis_backends": [{"type": "LocalVisBackend"}]}
    return cfg


def test_training_and_a_test_leave_a_report(tmp_path):
    runner = Runner.from_cfg(config(tmp_path))
    runner.train()
    page = (tmp_path / "report.html").read_text()
    assert "15 iterations, 3 validations" in page and page.count("<svg") >= 3
    found = load_findings(tmp_path / "report/data/val.json")
    assert found.title == "Validation after epoch 3" and found.pairs == [[0, 0, 9], [1, 0, 9]]
    assert (found.samples, found.wrong) == (18, 9) and "toy/accuracy" in found.metrics
    test = config(tmp_path, load_from=str(tmp_path / "epoch_3.pth"))
    Runner.from_cfg(test).test()
    assert "Test of epoch_3.pth" in (tmp_path / "report.html").read_text()
    assert list(tmp_path.glob("*/*.json")) == list(tmp_path.glob("*_*/*.json"))  # MMEngine's results alone
    Runner.from_cfg(config(tmp_path, resume=True, **{"train_cfg.max_epochs": 4})).train()
    assert "Test of epoch_3.pth" in (tmp_path / "report.html").read_text()  # of this training still
    Runner.from_cfg(config(tmp_path, **{"train_cfg.max_epochs": 1})).train()
    page = (tmp_path / "report.html").read_text()  # of the new training, with no word of the old test
    assert "Validation after epoch 1" in page and "Test of" not in page


def test_a_training_that_ends_by_an_error_leaves_its_curves(tmp_path):
    with pytest.raises(NonFiniteLossError):
        Runner.from_cfg(config(tmp_path, **{"model.nan_at": 8})).train()
    page = (tmp_path / "report.html").read_text()
    assert "7 iterations, 1 validation" in page and "Validation after epoch 1" in page


def test_an_error_in_the_report_is_one_line(tmp_path, monkeypatch, capfd):
    def fail(*_):
        raise RuntimeError("no\nreport")

    monkeypatch.setattr("pointsuite.report.hook.judge", fail)
    Runner.from_cfg(config(tmp_path, **{"train_cfg.max_epochs": 1})).train()
    said = [line for line in capfd.readouterr().out.splitlines() if "not written" in line]
    assert len(said) == 1 and said[0].endswith("report.html: not written (RuntimeError: no report)")
    assert "5 iterations" in (tmp_path / "report.html").read_text()  # the curves need no verdicts


def test_samples_that_are_repeated_count_once(tmp_path, monkeypatch):
    """Of 18 samples each of four processes gets 5, and 2 come twice."""
    dataset = type("Data", (), {"metainfo": {"classes": ("a", "b")}, "__len__": lambda self: 18})()
    counts = []
    monkeypatch.setattr("pointsuite.report.hook.get_world_size", lambda: 4)
    for rank in range(4):
        monkeypatch.setattr("pointsuite.report.hook.get_rank", lambda rank=rank: rank)
        hook = ReportHook()
        hook.before_val_epoch(None)
        for _ in range(5):
            sample = BaseDataElement()
            sample.set_data({"gt_label": torch.tensor(0), "pred_label": torch.tensor(1)})
            hook._collect(SimpleNamespace(), dataset, {"inputs": [torch.ones(3, 4, 4)]}, [sample])
        counts.append(hook.collector.samples)
    assert counts == [5, 5, 4, 4]


def test_it_can_be_left_out(tmp_path):
    path = write_config(tmp_path / "config")
    parser = command.build_parser("")
    command.add_report_option(parser)
    cfg = command.load_config(parser.parse_args([str(path), "--no-report"]))
    assert cfg.default_hooks.report is None and cfg.default_hooks.logger.interval == 10
    cfg.merge_from_dict({"work_dir": str(tmp_path / "run"), "experiment_name": "none", "visualizer": None})
    runner = Runner.from_cfg(cfg)
    assert not any(isinstance(hook, ReportHook) for hook in runner.hooks)


# ------------------------------------------------------------------------------------------------ samples


def show(inputs, sample, meta=None, **cfg):
    sampler = Sampler(Config({"model": {}, **cfg}), meta or {})
    return sampler.show(inputs, sample, Verdict(1.0, "a note", False))


def test_clouds_images_and_tokens():
    sample = BaseDataElement(metainfo={"index": 3})
    cloud = torch.randn(20, 3)
    item = show(cloud, sample, {"up": "y"})
    assert item.title == "sample 3" and item.note == "a note; 20 points" and item.points and not item.right
    sample.set_data({"gt_part": torch.zeros(20).long(), "pred_part": torch.ones(20).long()})
    assert show(cloud, sample).note == "a note; wrong ones are vermilion; 20 points"
    image = torch.randint(256, (3, 8, 6), dtype=torch.uint8)
    item = show(image, BaseDataElement(metainfo={"img_path": "/a/<b>.png"}))
    assert item.title == "<b>.png" and item.size == (6, 8)
    assert show(image.float(), sample).size == (6, 8)
    words = torch.tensor([1, 0, 1])
    assert show(words, sample, {"vocabulary": ("a", "<")}).text == "<a<"
    assert show(torch.tensor(list("é".encode())), sample, {"vocabulary": None}).text == "é"
    assert show(words, sample) is None and show(cloud.numpy(), sample) is None
