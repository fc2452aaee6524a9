from tests.tools.load import BENCHMARKS, load_tool

from .reports import read_report

tool = load_tool("sequence", BENCHMARKS)


def test_report(tmp_path, capsys):
    options = [
        "--lengths",
        "8",
        "24",
        "--longest-softmax",
        "8",
        "--heads",
        "2",
        "--width",
        "4",
        "--seconds",
        "0",
    ]
    tool.main([*options, "--mode", "evaluation", "gradients", "--out", str(tmp_path)])
    report, text = read_report(tmp_path, "sequence", capsys)
    rows = {(row["mode"], row["operator"], row["length"]): row for row in report["rows"]}
    assert len(rows) == 6 and text.count("\n") == 3 + len(report["rows"])
    for mode in ("evaluation", "gradients"):
        short, long = (rows[mode, "lightning", length] for length in (8, 24))
        assert short["growth"] is None and long["growth"] == long["ms"] / short["ms"] / 3
        assert short["softmax_ratio"] == short["ms"] / rows[mode, "softmax", 8]["ms"]
        assert long["softmax_ratio"] is None
    assert (tmp_path / "benchmark_sequence_cpu.png").stat().st_size > 5000


def test_gradients_are_of_all_inputs():
    """What is timed is what the operator says."""
    from argparse import Namespace

    args = Namespace(device="cpu", dtype="float32", batch=1, heads=2, width=4)
    for name in tool.OPERATORS:
        assert tool.make_call(args, name, 6, "evaluation")().shape == (1, 2, 6, 4)
        gradients = tool.make_call(args, name, 6, "gradients")()
        assert len(gradients) == 3 and all(g.abs().max() > 0 for g in gradients)
