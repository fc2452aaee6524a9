import re

import pytest

from pointsuite.engine.errors import UsageError
from tests.tools.images import write_segmentation
from tests.tools.load import load_tool
from tests.tools.tiny import CONFIG, NETWORK

tool = load_tool("analysis/get_flops")


def macs(text):
    """Of the whole model, in units of 1."""
    number, prefix = re.search(r"\(all\) +[\d,]+ +([\d.]+) ([kMG])", text).groups()
    return float(number) * {"k": 1e3, "M": 1e6, "G": 1e9}[prefix]


def run(capsys, *argv):
    tool.main([*argv])
    return capsys.readouterr().out


def test_names_of_both_zoos(capsys):
    text = run(capsys, "shvit_s1", "risurconv_s_cls", "--points", "256", "--model-args", "num_classes=1000")
    images, clouds = text.split("\n\n")[:2]
    assert images.startswith("shvit_s1: 1 x 3 x 224 x 224, peak ") and "6,330,808" in images
    assert 0.241e9 <= macs(images) < 0.242e9  # as published
    assert clouds.startswith("risurconv_s_cls: 1 x 256 x 6") and len(clouds.splitlines()) == 3


def test_tables_of_modules(capsys):
    text = run(capsys, "shvit_s1", "--size", "64", "96", "--batch", "2", "--depth", "3")
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines()[1:] if line}
    assert text.startswith("shvit_s1: 2 x 3 x 64 x 96") and rows["(all)"][0] == "6,330,808"
    assert {"backbone", "backbone.stages", "backbone.stages.1", "head"} < set(rows)
    assert not any(name.count(".") > 2 for name in rows)
    shares = [float(re.search(rf"^{name} .* ([\d.]+) %", text, re.M)[1]) for name in ("backbone", "head")]
    assert sum(shares) == pytest.approx(100, abs=0.11)


def test_cost_follows_the_size(capsys):
    small, large = (run(capsys, "shvit_s1", "--size", str(s), "--depth", "0") for s in (64, 128))
    assert 3.5 < macs(large) / macs(small) < 4.1


def test_config_of_clouds(capsys):
    options = [f"model.network.{key}={value}".replace(" ", "") for key, value in NETWORK.items()]
    text = run(capsys, CONFIG, "--depth", "1", "--cfg-options", *options)
    assert re.search(r"\nnetwork +[\d,]+ ", text) and "1 x 1024 x 6" in text
    partseg = CONFIG.replace("risurconv-s_", "risurconv-s_partseg_")
    assert macs(run(capsys, partseg, "--points", "512")) > 1e6  # which knows categories


def test_config_of_segmentation(tmp_path, monkeypatch, capsys):
    pytest.importorskip("mmseg")
    monkeypatch.chdir(tmp_path)
    text = run(capsys, write_segmentation(tmp_path), "--size", "32", "48", "--depth", "1")
    assert re.search(r"\nbackbone .*\ndecode_head ", text)
    wanted = 8 * 48 * 96 + (8 * 9 * 8 + 8 * 11) * 96  # the patches, 3 x 3 and 1 x 1 convolutions of 8 x 12
    assert macs(text) == pytest.approx(wanted, rel=1e-3)


def test_config_of_detection(tmp_path, capsys):
    pytest.importorskip("mmdet")
    (tmp_path / "detector.py").write_text("""
default_scope = "mmdet"
custom_imports = dict(imports=["tests.dense.classification.toy"])
crop_size = (64, 96)
model = dict(
    type="RetinaNet",
    backbone=dict(type="dense.ToyNet"),
    neck=dict(type="FPN", in_channels=[8], out_channels=8, num_outs=2),
    bbox_head=dict(
        type="RetinaHead",
        num_classes=3,
        in_channels=8,
        feat_channels=8,
        anchor_generator=dict(type="AnchorGenerator", ratios=[1.0], scales=[8], strides=[4, 8]),
    ),
)
""")
    text = run(capsys, str(tmp_path / "detector.py"), "--depth", "1")
    assert "1 x 3 x 64 x 96" in text and re.search(r"\nbackbone .*\nneck .*\nbbox_head ", text)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["shvit_s9"], "dense has no model 'shvit_s9'; did you mean shvit_s"),
        (["none.py"], "^none.py: no such config"),
        (["shvit_s1", "--model-args", "width=3"], "^shvit_s1: .*width"),
    ],
)
def test_refusals(argv, message):
    with pytest.raises(UsageError, match=message):
        tool.main(argv)


@pytest.mark.parametrize("options", [["--size", "1", "2", "3"], ["--batch", "0"]])
def test_bad_numbers(options, capsys):
    with pytest.raises(SystemExit):
        tool.main(["shvit_s1", *options])
    assert "--size" in capsys.readouterr().err
