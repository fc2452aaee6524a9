"""Names of images in files, folders and arrays, by a run's config, work dir, network or checkpoint."""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

import dense
from dense.classification import Classifier
from dense.classification.model import ImageClassifier
from dense.registry import DATASETS, MODELS
from pointsuite.engine.checkpoint import CheckpointError, save_checkpoint

from .toy import COLORS, write_project


def tune(model):
    """Logits that grow with the mean of a channel: those of blue, green and red, by name."""
    with torch.no_grad():
        conv, norm, _ = model.backbone.layers
        conv.weight.zero_()
        for i in range(3):
            conv.weight[i, 2 - i] = 1 / 16
        conv.bias.fill_(1.0)
        norm.reset_running_stats()
        model.head.fc.weight.zero_()
        model.head.fc.bias.zero_()
        model.head.fc.weight[:, :3] = torch.eye(3)
    return model


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_project(tmp_path)
    cfg = Config.fromfile("toy.py")
    model = tune(MODELS.build(cfg.model))
    meta = {
        "model": cfg.model.to_dict(),
        "pipeline": [dict(step) for step in cfg.test_dataloader.dataset.pipeline],
        "dataset_meta": {"classes": tuple(COLORS)},
    }
    (tmp_path / "work").mkdir()
    save_checkpoint({"state_dict": model.state_dict(), "meta": meta}, tmp_path / "work/epoch_1.pth")
    save_checkpoint(model.state_dict(), tmp_path / "bare.pth")
    (tmp_path / "work/last_checkpoint").write_text("epoch_1.pth")
    cfg.dump(tmp_path / "work/toy.py")
    return tmp_path


def picture(color="red", size=(30, 40)):
    return np.full((*size, 3), COLORS[color], np.uint8)


def test_files_folders_arrays_and_lists(project):
    classify = Classifier("work", device="cpu")
    path = project / "data/val/green/0.png"
    found = classify(path)
    assert found.name == "green" and found.label == 1 and found.classes == tuple(COLORS)
    assert found.probabilities.dtype == np.float32 and found.probabilities.sum() == pytest.approx(1)
    assert found.probability == found.probabilities.max()
    assert found.top(2)[0] == ("green", found.probability) and len(found.top()) == 3
    same = classify(np.asarray(Image.open(path)))
    assert (same.probabilities == found.probabilities).all()
    assert [one.name for one in classify(str(project / "data/val/red"))] == ["red"] * 3
    mixed = [path, picture("red"), str(project / "data/val/blue/1.png"), picture("blue", (60, 20))]
    assert [one.name for one in classify(mixed)] == ["green", "red", "blue", "blue"]
    grey = picture()[..., 0]
    assert (classify(grey).probabilities == classify(np.dstack([grey] * 3)).probabilities).all()


def test_every_way_to_name_a_run(project):
    wanted = Classifier("work")(picture()).probabilities
    model = tune(ImageClassifier({"type": "ToyNet"}, num_classes=3))
    for source in (
        ("toy.py", "work"),
        ("work/epoch_1.pth",),
        (Config.fromfile("toy.py"), "work"),
        (model, "work"),
    ):
        assert (Classifier(*source, device="cpu")(picture()).probabilities == wanted).all()
    assert (Classifier("toy.py", "bare.pth")(picture()).probabilities == wanted).all()
    # a config's data set that is not read has no names, unless it is told them
    assert Classifier("toy.py", "bare.pth")(picture()).name == "2"
    assert Classifier("toy.py", "bare.pth", classes=["a", "b", "c"])(picture()).name == "c"
    with pytest.raises(ValueError, match="2 names for the network's 3 classes"):
        Classifier("toy.py", "bare.pth", classes=["a", "b"])(picture())


def test_a_prediction_is_that_of_the_run(project):
    """The network gets what the test of its run gives it; a batch changes nothing."""
    classify = Classifier("work", batch_size=2)
    cfg = Config.fromfile("toy.py")
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    files = [dataset.get_data_info(i)["img_path"] for i in range(len(dataset))]
    items = [dataset[i] for i in range(len(dataset))]
    batch = {key: [item[key] for item in items] for key in ("inputs", "data_samples")}
    with torch.no_grad():
        wanted = classify.model.test_step(batch)
    for found, sample in zip(classify(files), wanted, strict=True):
        np.testing.assert_allclose(found.probabilities, sample.pred_scores.numpy(), rtol=1e-5)


def test_published_weights_and_bare_networks(tmp_path):
    """Converted files name their network; its images are prepared as ImageNet's usually are."""
    network = dense.create_model("shvit_s1", num_classes=4).eval()
    meta = {"model": "shvit_s1", "model_args": {"num_classes": 4}}
    save_checkpoint({"state_dict": network.state_dict(), "meta": meta}, tmp_path / "converted.pth")
    image = np.random.default_rng(0).integers(0, 256, (300, 400, 3)).astype(np.uint8)
    found = Classifier(tmp_path / "converted.pth", device="cpu")(image)
    assert found.classes == ("0", "1", "2", "3")
    again = Classifier(network, classes="abcd", device="cpu")(image)
    assert (again.probabilities == found.probabilities).all() and again.name == "abcd"[found.label]
    resized = Image.fromarray(image).resize((341, 256), Image.Resampling.BICUBIC)
    pixels = np.asarray(resized)[16:240, 58:282]
    inputs = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    model = Classifier(network, device="cpu")
    with torch.no_grad():
        logits = network(model.preprocessor({"inputs": [inputs]})["inputs"])
    np.testing.assert_allclose(found.probabilities, logits.softmax(1)[0].numpy(), rtol=1e-4)


def test_errors_name_what_is_wrong(project):
    classify = Classifier("work")
    (project / "text.png").write_text("no image")
    with pytest.raises(OSError, match=r"text\.png: not an image that can be read"):
        classify("text.png")
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        classify("none.png")
    with pytest.raises(ValueError, match=r"an array \(2, 2, 5\)"):
        classify(np.zeros((2, 2, 5), np.uint8))
    (project / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty: a folder without files"):
        classify("empty")
    with pytest.raises(ValueError, match="device is 'moon'"):
        Classifier("work", device="moon")
    content = torch.load("work/epoch_1.pth", weights_only=True)
    content["meta"]["pipeline"].insert(1, {"type": "os.system", "command": "touch broken"})
    torch.save(content, "odd.pth")
    with pytest.raises(CheckpointError, match=r"odd\.pth: its transform has the type 'system', which is not"):
        Classifier("odd.pth")


def test_progress_is_drawn_for_many(project, capsys):
    Classifier("work", progress=True, batch_size=2)("data/val/red")
    assert "3/3" in capsys.readouterr().err
    Classifier("work", progress=True)("data/val/red/0.png")
    Classifier("work")("data/val/red")
    assert capsys.readouterr().err == ""
