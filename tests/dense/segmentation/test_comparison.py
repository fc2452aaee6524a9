import numpy as np
import pytest
from mmengine.registry import DATASETS

import dense  # noqa: F401  before mmseg
from pointsuite.engine import command

pytest.importorskip("mmseg")

from dense.segmentation.comparison import SegmentationComparison
from tests.pointsuite.engine.conftest import one_thread  # noqa: F401
from tests.tools.load import load_tool

from .data import write_camvid
from .test_runs import RESNET, SMALL


@pytest.fixture(scope="module")
def camvid(tmp_path_factory):
    return str(write_camvid(tmp_path_factory.mktemp("data") / "camvid"))


def test_the_commonest_class(camvid):
    cfg = command.read_config(RESNET, {"data_root": camvid})
    ((name, scores),) = SegmentationComparison().references(cfg).items()
    pipeline = [{"type": "mmseg.LoadAnnotations"}]
    maps = DATASETS.build(
        {"type": "dense.CamVidDataset", "data_root": camvid, "split": "test", "pipeline": pipeline}
    )
    pixels = np.concatenate([maps[i]["gt_seg_map"].ravel() for i in range(len(maps))])
    share = 100 * (pixels == 3).sum() / (pixels != 255).sum()
    assert name == "only 'road'" and scores["aAcc"] == pytest.approx(share, abs=0.01)
    # an IoU of its own alone, which is its share of the pixels; of the classes that are there
    seen = len(set(pixels.tolist()) - {255})
    assert scores["mIoU"] == pytest.approx(share / seen, abs=0.01)
    assert scores["mAcc"] == pytest.approx(100 / seen, abs=0.01)


@pytest.mark.slow
def test_by_the_command_line(camvid, tmp_path, capfd):
    compare = load_tool("analysis/compare")
    out = tmp_path / "runs.json"
    argv = [str(RESNET), "--kind", "segmentation", "--work-dir", str(tmp_path), "--out", str(out)]
    argv += ["--seeds", "0", "1", "--cfg-options", *SMALL, f"data_root={camvid}", "train_cfg.max_iters=2"]
    compare.main(argv)
    header, row, reference = capfd.readouterr().out.splitlines()[-3:]
    assert header.split() == ["config", "parameters", "aAcc", "mIoU", "mAcc", "seeds", "seconds"]
    assert row.startswith("resnet18_fpn_camvid-small") and row.count("+-") == 3
    assert reference.startswith("only 'road'")
    before = out.read_bytes()
    compare.main(argv)
    assert out.read_bytes() == before  # nothing was run again
