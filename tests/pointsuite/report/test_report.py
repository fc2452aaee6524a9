import base64
import html
import json
import re

import numpy as np
import pytest

from pointsuite.engine.errors import UsageError
from pointsuite.report import Findings, Item, load_findings, write_gallery, write_report
from pointsuite.report.gallery import LARGEST, MOST_POINTS, cloud_item, picture_item, text_item
from tests.chromium import look, needs_chromium

HOSTILE = "</pre></script><script>document.documentElement.dataset.hacked = 1</script>\"'<b>é→</b>@BODY@"
ONERROR = '<img src=x onerror="document.documentElement.dataset.hacked=1">'


def items():
    rng = np.random.default_rng(0)
    cloud = rng.normal(size=(300, 3))
    return [
        picture_item(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8), HOSTILE, ONERROR, False),
        cloud_item(cloud, rng.random((300, 3)), "cloud", "cup → dog", False),
        text_item(HOSTILE, "text", "12 of 20 tokens right", True),
    ]


@pytest.fixture
def run(tmp_path):
    """A work dir as a training of three epochs and a test leave it; names and config are hostile."""
    folder = tmp_path / "run"
    (folder / "20300101_000000/vis_data").mkdir(parents=True)
    lines = [
        {"lr": 0.1, "loss": 4.0 / i, "grad_norm": float("nan") if i == 2 else 1.0, "time": 0.5, "epoch": i}
        | {"iter": 5 * i, "step": 5 * i}
        for i in (1, 2, 3)
    ]
    lines.append({"accuracy/top1": 50.0, "time": 0.1, "step": 3})
    text = "\n".join(map(json.dumps, lines))
    (folder / "20300101_000000/vis_data/scalars.json").write_text(text)
    log = (
        "2030/01/01 - mmengine - INFO - \n"
        + "-" * 60
        + "\nSystem environment:\n    Python: <3.99>\n"
        + "-" * 60
    )
    (folder / "20300101_000000/20300101_000000.log").write_text(log + "\nloss <4>\n")
    (folder / "mine.py").write_text(f"# {HOSTILE}\nmodel = dict(type='A')\n")
    findings = Findings(
        f"Test of {HOSTILE}.pth",
        {"accuracy/top1": 75.0, "data_time": 1.0},
        samples=4,
        wrong=2,
        classes=["cup", HOSTILE],
        pairs=[[0, 0, 2], [0, 1, 1], [1, 0, 1]],
        items=items(),
        tables={"Rotation protocols": "protocol  overall %\nz/SO3         75.00"},
        timelines={"street": {"frames": [0, 1, 2], "errors": [0.1, 0.9, 0.2], "spans": [[1, 1]]}},
    )
    findings.save(folder, "test")
    return folder


def shown(path):
    """The text of a page, without scripts."""
    text = re.sub(r"<(script|style)>.*?</\1>", "", path.read_text(), flags=re.DOTALL)
    return html.unescape(re.sub("<[^>]*>", " ", text))


def test_what_is_on_the_page(run):
    out = write_report(run)
    assert out == run / "report.html" and out.stat().st_size < 100_000
    text = " ".join(shown(out).split())
    for part in (
        "mine.py. Training: 3 epochs, 15 iterations, 1 validation; 0.5 s an iteration.",
        "1 of 3 values are not finite (nan; iteration 10): gaps",
        "2 of 4 right.",
        "Rotation protocols protocol overall % z/SO3 75.00",
        "Rows are true, columns predicted; samples are counted.",
        "The wrong ones",
        "street squared error by frame, true events shaded",
        "Python: <3.99>",
        "model = dict(type='A')",
    ):
        assert part in text, part
    assert "loss <4>" not in text and "data_time" not in text
    assert 'title="cup → cup: 2 (66.7 %)"' in out.read_text()


def test_text_is_no_markup(run):
    text = write_report(run).read_text()
    assert text.count("</script>") == 1 and "<script>document." not in text and "<img src=x" not in text
    assert "<b>é" not in text and html.escape(HOSTILE) in text


def test_findings_come_back(run):
    found = load_findings(run / "report/data/test.json")
    assert found.items == items() and found.pairs == [[0, 0, 2], [0, 1, 1], [1, 0, 1]] and found.wrong == 2
    (run / "report/data/test.json").write_text("[]")
    with pytest.raises(UsageError, match="wanted what a run's report hook wrote"):
        write_report(run)


def test_many_classes_are_cut_to_those_with_errors(run):
    pairs = [[i, i, 5] for i in range(60)] + [[50, 51, 3]]
    Findings("Test", classes=[f"c{i}" for i in range(60)], pairs=pairs).save(run, "test")
    text = shown(write_report(run))
    assert "Of 60 classes the 40 with most errors are shown." in text
    assert "c50 " in text and html.unescape(write_report(run).read_text()).count("c50 → c51: 3 (37.5 %)") == 1


def test_no_run_no_page(tmp_path, run):
    for folder, out, message in (
        (tmp_path / "none", None, "found neither a log nor what a test found"),
        (run, tmp_path / "a.pdf", "found the suffix '.pdf', wanted .html"),
    ):
        with pytest.raises(UsageError, match=message):
            write_report(folder, out)
    assert not (tmp_path / "none").exists() and not (tmp_path / "a.pdf").exists()


def test_pictures_and_clouds_are_small():
    item = picture_item(np.zeros((500, 2 * LARGEST, 3), np.uint8), "large")
    assert item.size == (LARGEST, 250) and item.note == f"{2 * LARGEST} × 500 pixels, shown smaller"
    item = cloud_item(
        np.random.default_rng(0).normal(size=(3 * MOST_POINTS, 3)), np.ones((3 * MOST_POINTS, 3)), ""
    )
    assert len(base64.b64decode(item.points)) == 6 * MOST_POINTS and item.note.endswith("every 3th is shown")
    points = np.frombuffer(base64.b64decode(item.points), "<i2").reshape(-1, 3)
    assert np.linalg.norm(points, axis=1).max() == pytest.approx(32767, abs=2)
    with pytest.raises(ValueError, match="b: points are .*, wanted finite"):
        cloud_item(np.full((4, 3), np.nan), np.ones((4, 3)), "b")


def test_a_gallery(tmp_path):
    out = write_gallery(tmp_path / "new/a.html", items(), title=HOSTILE, heading="two")
    assert out.read_text().count('class="card') == 4 and 'class="only"' in out.read_text()  # and the styles
    assert "\\udce9" in write_gallery(out, [Item("caf\udce9", text="a")], title="bytes").read_text()
    with pytest.raises(ValueError, match="found nothing to show, wanted at least 1 item"):
        write_gallery(tmp_path / "b.html", [], title="none")


@needs_chromium
def test_in_a_browser(run, tmp_path):
    """It loads without a word on the console, draws the clouds, and shows the one that is linked to large."""
    text, said, image = look(write_report(run), tmp_path, "#show=item-0-1")
    assert ":CONSOLE" not in said, said
    assert 'data-loaded="3"' in text and "data-hacked" not in text
    dialog = text.partition("<dialog")[2]
    assert dialog.startswith(' id="large" open') and '<b class="title">cloud</b>' in dialog
    assert '<div class="note">cup → dog; 300 points</div>' in dialog
    assert len(np.unique(image[40:480, 60:840].reshape(-1, 3), axis=0)) > 200  # the cloud's colours
