"""What users call: pictures of any sizes, many pairs, weights, bad input."""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

import dense.matching
from dense.matching import Matcher, NoMotion
from dense.registry import MODELS
from pointsuite.engine.checkpoint import CheckpointError, save_checkpoint

from .toy import CONFIG, blobs


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "toy.py"
    path.write_text(CONFIG)
    return Config.fromfile(path)


class Shift(torch.nn.Module):
    """All moves by two cells of eight to the right and one up."""

    def match(self, source, target):
        flow = torch.tensor([2.0, -1.0])[None, :, None, None].expand(len(source), 2, 8, 8)
        return flow, torch.full((len(source), 8, 8), 0.5)


def test_pictures_of_any_size(config, tmp_path):
    matcher = Matcher(config, device="cpu", weights="random")
    matcher.model.network = Shift()
    source, target = blobs((80, 48), np.random.default_rng(0)), blobs((32, 64), np.random.default_rng(1))
    source.save(tmp_path / "source.png")
    target.convert("L").save(tmp_path / "target.png")
    found = matcher(tmp_path / "source.png", str(tmp_path / "target.png"), points=[[7.5, 31.5], [3, 10]])
    assert found.flow.shape == (64, 32, 2) and found.confidence.shape == (64, 32)
    assert found.warped.shape == (64, 32, 3) and found.warped.dtype == np.uint8
    assert (found.confidence == 0.5).all()
    # a quarter of the side to the right, an eighth up: (8, 32) of 32 x 64 goes to (40, 18) of 80 x 48
    np.testing.assert_allclose(found.points[0], (8 / 32 * 80 + 20 - 0.5, 32 / 64 * 48 - 6 - 0.5), atol=1e-4)
    for x, y in ((3, 10), (20, 50)):
        wanted = ((x + 0.5) / 32 * 80 + 20 - 0.5 - x, (y + 0.5) / 64 * 48 - 6 - 0.5 - y)
        np.testing.assert_allclose(found.flow[y, x], wanted, atol=1e-4)
    np.testing.assert_allclose(found.points[1], found.flow[10, 3] + (3, 10), atol=1e-4)
    assert (found.warped[:7] == 0).all() and (found.warped[:, 24:] == 0).all()
    pixels = np.asarray(source)
    same = matcher(pixels, pixels)
    np.testing.assert_array_equal(same.warped[6:, :60], pixels[:-6, 20:])
    assert same.points.shape == (0, 2)


def test_many_pairs(config, tmp_path):
    matcher = Matcher(config, device="cpu", weights="random", batch_size=2, progress=False)
    pictures = [np.asarray(blobs((20 + 4 * i, 16), np.random.default_rng(i))) for i in range(3)]
    single = [matcher(pictures[0], picture, [[1, 2]]) for picture in pictures]

    def check(found, wanted):
        assert len(found) == len(wanted)
        for match, other in zip(found, wanted, strict=True):
            for a, b in zip(match, other, strict=True):
                np.testing.assert_allclose(a, b, atol=1e-4)

    check(matcher(pictures[0], pictures, [[1, 2]]), single)
    check(matcher([pictures[0]] * 3, pictures, [[1, 2]]), single)
    check(matcher([(pictures[0], picture, [[1, 2]]) for picture in pictures]), single)
    without = matcher([(pictures[0], pictures[1])])[0]
    assert without.points.shape == (0, 2)
    np.testing.assert_allclose(without.flow, single[1].flow, atol=1e-4)
    for i, picture in enumerate(pictures):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "pictures" / f"{i}.png")
    check(matcher(pictures[0], tmp_path / "pictures", [[1, 2]]), single)
    with pytest.raises(ValueError, match="found 2 sources and 3 targets, wanted as many"):
        matcher(pictures[:2], pictures)
    with pytest.raises(ValueError, match=r"pair 1 is a str, wanted \(source, target\)"):
        matcher([(pictures[0], pictures[1]), "ab"])


def test_a_bare_network_wants_a_size(config):
    picture = np.asarray(blobs((20, 16), np.random.default_rng(0)))
    with pytest.raises(
        ValueError, match="NoMotion: its test pipeline has no ResizePair, wanted one, or size"
    ):
        Matcher(NoMotion(), device="cpu")
    found = Matcher(NoMotion(), device="cpu", size=32)(picture, picture, [[3, 4]])
    np.testing.assert_allclose(found.points, [[3, 4]], atol=1e-4)
    assert (found.confidence == 1).all()


def test_the_first_name_goes_on_working():
    from dense.matching.matcher import Matcher as published

    assert published is Matcher is dense.matching.Matcher


def test_weights_of_a_run(config, tmp_path):
    torch.manual_seed(5)
    model = MODELS.build({**config.model, "type": "dense.DenseMatcher"})
    path = tmp_path / "epoch_1.pth"
    save_checkpoint({"state_dict": model.state_dict(), "meta": {}}, path)
    matcher = Matcher(tmp_path / "toy.py", path)
    picture = np.asarray(blobs((32, 32), np.random.default_rng(0)))
    batch = {"inputs": [torch.from_numpy(np.stack([picture, picture]).transpose(0, 3, 1, 2).copy())]}
    wanted = model.eval().test_step(batch)[0].pred_flow
    assert matcher.model.test_step(batch)[0].pred_flow.equal(wanted)
    assert not Matcher(config, weights="random").model.test_step(batch)[0].pred_flow.equal(wanted)
    save_checkpoint({"state_dict": {"a": torch.zeros(1)}}, path)
    with pytest.raises(CheckpointError, match="epoch_1.pth"):
        Matcher(config, path)


def test_bad_pictures_and_points(config, tmp_path):
    matcher = Matcher(config, weights="random")
    picture = np.zeros((16, 20, 3), np.uint8)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(OSError, match="text.png: not an image that can be read"):
        matcher(tmp_path / "text.png", picture)
    with pytest.raises(FileNotFoundError, match="none.png"):
        matcher(picture, tmp_path / "none.png")
    with pytest.raises(
        ValueError, match=r"the target is an array \(16, 20, 2\), wanted \(H, W\) or \(H, W, 1, 3 or 4\)"
    ):
        matcher(picture, picture[..., :2])
    with pytest.raises(ValueError, match="the source is an array of float32, wanted uint8 or uint16"):
        matcher(picture.astype(np.float32), picture)
    with pytest.raises(
        ValueError, match=r"a point is at \(20, 5\), wanted it in the target of 20 x 16 pixels"
    ):
        matcher(picture, picture, points=[[1, 1], [20, 5]])
    with pytest.raises(ValueError, match=r"points are \(3,\), wanted \(n, 2\)"):
        matcher(picture, picture, points=[1, 2, 3])
    config.test_dataloader.dataset.pipeline = []
    with pytest.raises(ValueError, match="its test pipeline has no ResizePair"):
        Matcher(config, weights="random")
    Image.fromarray(picture[..., 0]).save(tmp_path / "grey.png")
    assert matcher(tmp_path / "grey.png", picture).flow.shape == (16, 20, 2)
    grey = picture[..., 0] + np.arange(20, dtype=np.uint8)
    for other in (grey[..., None], grey.astype(np.uint16) << 8, np.stack([grey] * 4, -1)):
        np.testing.assert_array_equal(matcher(grey, picture).warped, matcher(other, picture).warped)
