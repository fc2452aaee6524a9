import pytest

from tests.tools.load import BENCHMARKS, load_tool

from .reports import read_report

tool = load_tool("parts", BENCHMARKS)


@pytest.mark.parametrize(
    "model", ["risurconv_s_cls", pytest.param("risurconv_s_partseg", marks=pytest.mark.slow)]
)
def test_report(model, tmp_path, capsys):
    size = ["--batch", "2", "--points", "256", "--rounds", "1"]
    tool.main(["--model", model, *size, "--out", str(tmp_path)])
    report, text = read_report(tmp_path, f"parts_{model}", capsys)
    rows = {row["part"]: row for row in report["rows"]}
    own = {*tool.OPERATORS.values(), *tool.MODULES.values(), "head", "optimizer", "rest"}
    assert set(rows) == (own if model.endswith("cls") else own - {"encoder"})
    assert all(row["forward"] > 0 for name, row in rows.items() if name != "rest")
    assert all(rows[name]["backward"] == 0 for name in (*tool.OPERATORS.values(), "optimizer"))
    assert rows["attention among points"]["backward"] > 0
    assert text.count("\n") == len(rows) + 5


def test_every_kind_of_module_is_there():
    network, _ = tool.make_calls("risurconv_s_cls", 2, 256, "cpu")
    assert set(tool.name_parts(network).values()) == {*tool.MODULES.values(), "head"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--model", "pointnet_cls"], "--model wants one of"), (["--batch", "0"], "at least 1")],
)
def test_bad_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit):
        tool.main(arguments)
    assert message in capsys.readouterr().err
