import copy
import json
import re

import pytest
import torch

from pointsuite.engine.errors import UsageError
from tests.dense.sequence.toy import write_photos
from tests.tools.load import BENCHMARKS, REPOSITORY, load_tool

tool = load_tool("backbones", BENCHMARKS)
tool.PRODUCT = 256  # of what is measured here; the results that are shown have the real one
shown = load_tool("backbones", BENCHMARKS)
SMALL = [
    "--only",
    "shvit_s1",
    "--size",
    "32",
    "--batches",
    "1",
    "2",
    "--growth",
    "32",
    "64",
    "--seconds",
    "0",
]
NAME = "benchmark_backbones_cpu.json"


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Every part of the smallest SHViT, on small images."""
    root = tmp_path_factory.mktemp("backbones")
    write_photos(root / "photos", 4)
    options = [
        "--cfg-options",
        f"data_root={root / 'photos'}",
        "max_iters=2",
        "train_dataloader.batch_size=4",
    ]
    options += ["train_dataloader.dataset.fraction=1.0", "val_dataloader.dataset.fraction=1.0"]
    arguments = [*SMALL, *options, "--work-dir", str(root / "work"), "--out", str(root)]
    tool.main(arguments)
    return root, arguments


def test_every_part(measured, capsys):
    results = json.loads((measured[0] / NAME).read_text())
    assert results.keys() == {"shvit_s1"} and results["shvit_s1"].keys() == tool.PARTS.keys()
    parts = results["shvit_s1"]
    assert not any(record.get("left_out") for record in parts.values())
    assert parts["memory"]["parameters"] == 6_330_808 and parts["memory"]["peak_bytes"] > 2 * 3 * 32 * 32 * 4
    assert parts["speed"]["ms"].keys() == {"float32 1", "float32 2", "bfloat16 1", "bfloat16 2"}
    assert parts["growth"]["ms"].keys() == {"32", "64"}
    assert 0 < parts["field"]["share_of_half"] <= 0.5  # of an even field it is a half
    assert parts["independence"]["effect"]["float32"] < 2e-5
    assert 0 <= parts["training"]["top1"] <= 100 and parts["training"]["steps"] == 2
    (title, rows), *_ = tool.tables(results)
    assert title == "Smallest variants" and len(rows) == 2 and "-" not in rows[1]
    row = dict(zip(*rows, strict=True))
    ms, products = parts["speed"]["ms"]["float32 2"], parts["speed"]["product_ms"]
    floor = 2 * parts["memory"]["macs"] * min(products.values()) / 256**3
    assert float(row["floor"].rstrip("*")) == pytest.approx(ms / floor, abs=0.006)
    assert float(row["float32, 2"].rstrip("*")) == pytest.approx(2000 / ms, rel=0.01)


def test_what_is_done_is_not_repeated(measured, monkeypatch):
    root, arguments = measured
    before = (root / NAME).read_bytes()
    for name in tool.PARTS:
        monkeypatch.setitem(tool.PARTS, name, lambda *_: pytest.fail("measured again"))
    tool.main(arguments)
    assert (root / NAME).read_bytes() == before


def test_stopped_and_continued(tmp_path, monkeypatch):
    """The same file as of an unbroken run, but for when it was written."""
    arguments = ["--only", "shvit_s1", "s2aformer_mini", "--parts", "memory", "field", "--size", "32"]
    tool.main([*arguments, "--out", str(tmp_path / "whole")])
    stop = iter([False, False, True])
    field = tool.PARTS["field"]

    def interrupted(*given):
        if next(stop):
            raise KeyboardInterrupt
        return field(*given)

    with monkeypatch.context() as patch:
        patch.setitem(tool.PARTS, "field", interrupted)
        next(stop)
        with pytest.raises(KeyboardInterrupt):
            tool.main([*arguments, "--out", str(tmp_path / "parts")])
    half = tool.read_results(tmp_path / "parts" / NAME)
    assert sorted(len(parts) for parts in half.values()) == [1, 2]
    tool.main([*arguments, "--out", str(tmp_path / "parts")])
    whole, parts = (tool.read_results(tmp_path / name / NAME) for name in ("whole", "parts"))
    for results in (whole, parts):
        for records in results.values():
            for record in records.values():
                del record["environment"]
    assert json.dumps(parts) == json.dumps(whole)


def test_a_larger_budget_tries_again(tmp_path):
    arguments = ["--only", "shvit_s1", "--parts", "field", "--size", "32", "--out", str(tmp_path)]
    tool.main([*arguments, "--budget", "field=1e-6"])
    first = tool.read_results(tmp_path / NAME)["shvit_s1"]["field"]
    assert re.fullmatch(r"over the budget: \d+ s", first["left_out"]["field"])
    assert "field: more than was left of 1e-06 s: shvit_s1" in tool.format_docs(
        {"shvit_s1": {"field": first}}
    )
    tool.main([*arguments, "--budget", "field=1e-7"])
    assert tool.read_results(tmp_path / NAME)["shvit_s1"]["field"] == first
    tool.main(arguments)
    assert "share_of_half" in tool.read_results(tmp_path / NAME)["shvit_s1"]["field"]


def test_again(tmp_path):
    """What was timed while others ran is timed anew on request, and nothing else is."""
    arguments = [*SMALL, "--parts", "growth", "field", "--out", str(tmp_path)]
    tool.main(arguments)
    results = tool.read_results(tmp_path / NAME)
    for load, anew in ((0.05, False), (0.5, True)):
        for record in results["shvit_s1"].values():
            record["environment"]["load"] = load
        (tmp_path / NAME).write_text(json.dumps(results))
        tool.main([*arguments, "--again"])
        found = tool.read_results(tmp_path / NAME)["shvit_s1"]
        assert (found["growth"] != results["shvit_s1"]["growth"]) == anew
        assert found["field"] == results["shvit_s1"]["field"]


def test_variants():
    smallest, nearest = ({v.name: v.parameters for v in group} for group in tool.find_variants())
    assert smallest["dhvt_tiny_domain_patch16"] and smallest["terminator_cifar"]  # made for 32 pixels alone
    assert (
        nearest["crossvit_small"] == 26_856_272 and "davit_tiny" in smallest and "davit_tiny" not in nearest
    )
    assert list(smallest.values()) == sorted(smallest.values())
    assert set(tool.PEERS) <= set(tool.ZOO.list_models())


def test_calls_are_left_out_by_what_came_before(monkeypatch):
    """Of 1, 4 and 16 pixels, 0.6 seconds each: what is left of the budget does not do for the last."""
    called = []
    monkeypatch.setattr(tool, "measure_time", lambda call, device: called.append(call()) or call())
    calls = {"1": lambda: 600.0, "4": lambda: 2400.0, "16": lambda: 9600.0}
    args = tool.argparse.Namespace(device="cpu", seconds=0)
    amounts = {"1": 1, "4": 4, "16": 16}
    times, left_out = tool.time_affordable(calls, amounts, args, 13)
    assert times == {"1": 600.0, "4": 2400.0} and left_out == {"16": "over the budget: 10 s"}
    assert called == [600.0, 600.0, 2400.0]  # the first had a warm-up
    assert tool.time_affordable(calls, amounts, args, 14)[0]["16"] == 9600.0


def test_peers(monkeypatch, tmp_path):
    """timm's network in turns with ours, at the size that it is for; other sizes of networks are no peers."""
    theirs = tool.dense.create_model("shvit_s1").eval()
    theirs.pretrained_cfg = {"input_size": (3, 32, 32)}
    timm = type("timm", (), {"__version__": "0", "create_model": staticmethod(lambda name: theirs)})
    monkeypatch.setattr(tool, "import_timm", lambda: timm)
    arguments = [*SMALL[:2], "--batches", "1", "2", "--seconds", "0", "--parts", "--peers"]
    tool.main([*arguments, "--out", str(tmp_path / "same")])
    results = tool.read_results(tmp_path / "same" / NAME)
    found = results["shvit_s1"]["peers"]
    assert found["size"] == 32 and found["batches"].keys() == {"1", "2"}
    for row in found["batches"].values():
        low, middle, high = row["ratio"]
        assert low <= middle <= high and 0.2 < middle < 5 and row["rounds"] == 3
    *_, (title, rows) = tool.tables(results)
    assert title == "Beside timm" and len(rows) == 3
    theirs.head = torch.nn.Identity()
    tool.main([*arguments, "--out", str(tmp_path / "other")])
    record = tool.read_results(tmp_path / "other" / NAME)["shvit_s1"]["peers"]
    assert "timm's shvit_s1 has 6,009,168 parameters" in record["left_out"]["peers"]


def test_docs(measured, tmp_path, monkeypatch):
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs/backbones.md"
    page.write_text("before\n" + "\nold\n".join(tool.MARKS) + "\nafter\n")
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    tool.main(["--parts", "--write-docs", "--out", str(measured[0])])
    text = page.read_text()
    assert text.startswith("before") and text.endswith("after\n") and "old" not in text
    assert tool.format_docs(tool.read_results(measured[0] / NAME)) in text and "| shvit_s1 | 6.3 M |" in text
    for name in ("accuracy", "growth"):
        assert (tmp_path / f"docs/backbones_{name}.png").stat().st_size > 5000


def test_docs_are_fresh():
    """If not: python benchmarks/backbones.py --parts --write-docs"""
    results = shown.read_results(REPOSITORY / "benchmarks/results" / NAME)
    text = (REPOSITORY / "docs/backbones.md").read_text()
    assert shown.format_docs(results) in text
    changed = copy.deepcopy(results)
    changed["shvit_s1"]["memory"]["parameters"] += 10**6
    assert shown.format_docs(changed) not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "nothing*"], r"--only: found no backbone nothing\*"),
        (["--budget", "speed=0"], "--budget: found speed=0, wanted seconds of memory, speed"),
        (["--budget", "sped=3"], "--budget: found sped=3, wanted"),
        (["--parts", "sped"], "invalid choice: 'sped'"),
        (["--batches", "0"], "found '0', wanted a whole number from 1"),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit):
        tool.main(arguments)
    assert re.search(message, capsys.readouterr().err)


def test_other_files_are_not_taken(tmp_path):
    (tmp_path / NAME).write_text("[1]")
    with pytest.raises(UsageError, match=r"found other JSON, wanted results of benchmarks/backbones\.py"):
        tool.main(["--parts", "--out", str(tmp_path)])
    assert (tmp_path / NAME).read_text() == "[1]"
