"""What the predictors of all tasks have in common: where weights come from, and what checkpoints may say."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config

import dense
import pointsuite
from dense.classification import Classifier
from dense.detection.predictor import DetInferencer
from dense.gaze import ScanpathPredictor
from dense.matching import Matcher
from dense.restoration import Restorer
from dense.segmentation.predictor import Segmenter
from dense.sequence import Generator
from dense.video import AnomalyScorer
from pointsuite.engine.checkpoint import CheckpointError, save_checkpoint
from pointsuite.engine.errors import UsageError

CONFIGS = Path(__file__).parents[1] / "configs"
PREDICTORS = [
    (pointsuite.Classifier, "risurconv/risurconv-s_kicad.py"),
    (pointsuite.PartSegmenter, "risurconv/risurconv-s_partseg_kicad.py"),
    (Classifier, "shvit/shvit-s1_fashion-mnist.py"),
    (Segmenter, "shvit/shvit-s1_fpn_camvid-small.py"),
    (DetInferencer, "relationnet2/retinanet_r18_pennfudan.py"),
    (Restorer, "edsr/edsr-s_srx2_t91.py"),
    (Matcher, "ufc/ufc-tiny_warps_pf-willow.py"),
    (AnomalyScorer, "vad_hybrid/vad-hybrid-small_ped2.py"),
    (ScanpathPredictor, "oat/oat-small_osie.py"),
    (Generator, "transnormer/tnl-tiny_shakespeare.py"),
]


@pytest.fixture(autouse=True)
def no_downloads(monkeypatch):
    """Nothing here may fetch: what tries fails."""

    def refuse(*args, **kwargs):
        raise AssertionError(f"fetched {args}")

    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("urllib.request.urlopen", refuse)


@pytest.mark.parametrize(("predictor", "name"), PREDICTORS, ids=lambda value: getattr(value, "__name__", ""))
def test_weights_are_asked_for_in_every_task(predictor, name, tmp_path):
    config = CONFIGS / name
    names = {"classes": ["a"]} if predictor is pointsuite.Classifier else {}
    names = {"parts": ["a"]} if predictor is pointsuite.PartSegmenter else names
    names = {"vocabulary": list(map(chr, range(65)))} if predictor is Generator else names
    options = {"device": "cpu", **names}
    wanted = r"found no weights for [\d,]+ parameters of its \w+, wanted .* or weights='random'"
    with pytest.raises(CheckpointError, match=wanted):
        predictor(config, **options)
    fresh = predictor(Config.fromfile(config), weights="random", **options)
    assert fresh.checkpoint is None

    folder = tmp_path / "work"
    folder.mkdir()
    Config.fromfile(config).dump(folder / config.name)
    with pytest.raises(UsageError, match="work: a folder without checkpoints"):
        predictor(folder, **options)
    state = fresh.model.state_dict()
    older = {key: torch.zeros_like(value) for key, value in state.items()}
    for file, weights in (("best_a_epoch_1", older), ("epoch_9", older), ("epoch_10", state)):
        save_checkpoint({"state_dict": weights, "meta": {}}, folder / f"{file}.pth")
    found = predictor(folder, **options)
    assert Path(found.checkpoint).name == "epoch_10.pth"
    assert all(torch.equal(value, state[key]) for key, value in found.model.state_dict().items())
    (folder / "last_checkpoint").write_text("/elsewhere/epoch_9.pth")
    assert Path(predictor(config, weights=folder, **options).checkpoint).name == "epoch_9.pth"
    with pytest.raises(ValueError, match="wanted one of them"):
        predictor(config, folder, weights="random", **options)


def test_networks_without_parameters_and_bare_networks_need_no_weights():
    assert AnomalyScorer(CONFIGS / "vad_hybrid/copy-previous_ped2.py", device="cpu").checkpoint is None
    assert Matcher(CONFIGS / "ufc/no-motion_pf-willow.py", device="cpu").checkpoint is None
    network = dense.create_model("edsr_baseline")
    assert Restorer(network, device="cpu").model is network


def test_weights_that_a_config_names_for_all_parameters(tmp_path):
    """Nearest neighbours of features that another run has learnt."""
    cfg = Config.fromfile(CONFIGS / "ufc/mutual-nn_pf-willow.py")
    random = Matcher(cfg, device="cpu", weights="random").model.network.backbone.state_dict()
    state = {f"network.backbone.{key}": value for key, value in random.items()}
    save_checkpoint({"state_dict": state}, tmp_path / "ufc.pth")
    cfg.model.network.backbone.init_cfg.checkpoint = str(tmp_path / "ufc.pth")
    found = Matcher(cfg, device="cpu").model.network.backbone.state_dict()
    assert all(torch.equal(found[key], value) for key, value in random.items())


URL = "https://example.com/weights.pth#sha256=" + 64 * "0"
INITIAL = {"type": "Pretrained", "checkpoint": URL}


@pytest.mark.parametrize(
    ("predictor", "name", "options"),
    [
        (Classifier, "shvit_s1", {"pretrained": URL}),
        (Classifier, "shvit_s1", {"pretrained": "ours.pth"}),
        (Classifier, "shvit_s1", {"pretrained": True}),
        (Classifier, "shvit_s1", {"init_cfg": INITIAL}),
        (Classifier, "shvit_s1", {"num_classes": "../../secret"}),
        (Classifier, "shvit_s1", [URL]),
        (pointsuite.Classifier, "risurconv_cls", {"load_from": URL}),
        (DetInferencer, "relation_detr_r50", {"arch": {"config": "evil.py"}}),
        (DetInferencer, "relation_detr_r50", {"backbone.init_cfg.checkpoint": URL}),
        (DetInferencer, "relation_detr_r50", {"neck": {"type": "os.mkdir", "name": "ran"}}),
        (DetInferencer, "relation_detr_r50", {"data_preprocessor.type": "os.mkdir"}),
        (Restorer, "edsr_baseline", {"pretrained": URL}),
        (Matcher, "ufc_r101", {"backbone": {"type": "mmdet.ResNet", "init_cfg": INITIAL}}),
        (AnomalyScorer, "vad_hybrid_small", {"checkpoint": URL}),
        (Restorer, "../evil.py", {}),
    ],
)
def test_a_checkpoint_names_no_file_address_or_type(predictor, name, options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("evil.py").write_text("open('ran', 'w')")
    save_checkpoint({"state_dict": {"a": torch.zeros(1)}}, "ours.pth")
    meta = {"model": name, "model_args": options}
    save_checkpoint({"state_dict": {"a": torch.zeros(1)}, "meta": meta}, "odd.pth")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CheckpointError, match=r"^odd\.pth: ") as caught:
        predictor("odd.pth", device="cpu")
    assert "\n" not in str(caught.value) and sorted(tmp_path.iterdir()) == before


def test_initial_weights_that_a_run_named_are_not_read_again(tmp_path):
    """Its checkpoint has all weights; what they were before is of no use."""
    cfg = Config.fromfile(CONFIGS / "shvit/shvit-s1_fashion-mnist.py")
    fresh = Classifier(cfg, device="cpu", weights="random")
    model = cfg.model.to_dict()
    model["backbone"]["init_cfg"] = INITIAL
    meta = {
        "model": model,
        "pipeline": cfg.test_dataloader.dataset.pipeline,
        "dataset_meta": {"classes": "0123456789"},
    }
    save_checkpoint({"state_dict": fresh.model.state_dict(), "meta": meta}, tmp_path / "run.pth")
    found = Classifier(tmp_path / "run.pth", device="cpu").model
    assert found.backbone.init_cfg is None
    assert all(torch.equal(v, fresh.model.state_dict()[k]) for k, v in found.state_dict().items())
    model["backbone"]["extra"] = "/etc/passwd"
    save_checkpoint({"state_dict": fresh.model.state_dict(), "meta": meta}, tmp_path / "run.pth")
    with pytest.raises(CheckpointError, match="names '/etc/passwd', wanted no file or address"):
        Classifier(tmp_path / "run.pth", device="cpu")
