"""Run tools/prepare_dataset.py on files that a test wrote."""

from pathlib import Path

import numpy as np

from pointsuite.datasets import Clouds, FileInfo, PointCloudDataset, read_clouds
from tests.tools.load import load_tool

main = load_tool("prepare_dataset").main
OFF_BOX = """OFF
8 6 0
0 0 0\n2 0 0\n2 1 0\n0 1 0\n0 0 1\n2 0 1\n2 1 1\n0 1 1
4 0 3 2 1\n4 4 5 6 7\n4 0 1 5 4\n4 1 2 6 5\n4 2 3 7 6\n4 3 0 4 7
"""


def prepare(name: str, root: Path, *options: str, split: str = "test") -> tuple[Clouds, FileInfo]:
    """One split of the converted file, which the dataset class reads, too."""
    out = root.parent / "out.h5"
    arguments = [name, "--root", str(root), "--out", str(out), "--workers", "1", *options]
    assert main(arguments) == 0
    clouds, info = read_clouds(out, split)
    sample = PointCloudDataset(out, split)[0]
    np.testing.assert_allclose(np.linalg.norm(sample["normals"], axis=1), 1, atol=1e-5)
    return clouds, info


def failure(capsys, name: str, root: Path, *options: str) -> str:
    """The one line of error."""
    out = root.parent / "failed.h5"
    assert main([name, "--root", str(root), "--out", str(out), "--workers", "1", *options]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and not out.exists()
    return error
