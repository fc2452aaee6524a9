"""docs/contributing.md, followed to the letter in a copy of the repository: five pieces make a system."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs/contributing.md").read_text()
PIECES = dict(re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", GUIDE, re.DOTALL))
DERIVED = {"README.md", "docs/models.md"}
# what the authors of the example "published"
PUBLISHED = """
import torch
from torch import nn
from tests.parity.make_pack import make_pack

class Unit(nn.Module):
    def __init__(self, a, b, stride):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b)
    def forward(self, x):
        return self.norm(self.conv(x))

class Published(nn.Module):
    def __init__(self):
        super().__init__()
        self.down0, self.stage0 = Unit(3, 16, 4), nn.ModuleList([Unit(16, 16, 1)])
        self.down1, self.stage1 = Unit(16, 32, 2), nn.ModuleList([Unit(32, 32, 1), Unit(32, 32, 1)])
        self.classifier = nn.Linear(32, 10)
    def forward(self, x):
        for down, stage in ((self.down0, self.stage0), (self.down1, self.stage1)):
            x = down(x)
            for unit in stage:
                x = x + unit(x).relu()
        return self.classifier(x.mean((2, 3)))

make_pack(
    "plainnet_tiny", Published(), {"x": {"kind": "normal", "shape": [2, 3, 64, 64], "seed": 0}},
    call=lambda model, inputs: {"logits": model(inputs["x"])},
    source="nobody/plainnet", build={"variant": "tiny"}, out="tests/parity/packs/plainnet",
)
torch.save(Published().state_dict(), "published.pth")
"""


def run(folder, *arguments):
    environment = {
        "PYTHONPATH": str(folder),
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=280
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The files of the repository, with the example's pieces added."""
    folder = tmp_path_factory.mktemp("copy")
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        # packs of other systems are many, and nothing here reads them
        if (ROOT / name).is_file() and not (name.startswith("tests/parity/packs/") and "/davit/" not in name):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for name, text in PIECES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    code, output = run(folder, "-c", PUBLISHED)
    assert code == 0, output
    return folder, before


def test_five_pieces():
    kinds = {name.split("/")[0] + "/" + name.split("/")[1] for name in PIECES}
    assert kinds == {"tests/parity", "dense/backbones", "tests/dense", "configs/plainnet"}  # and the pack


def test_its_pack_passes(copy):
    code, output = run(copy[0], "-m", "tests.parity", "tests/parity/packs/plainnet/plainnet_tiny.json")
    assert code == 0, output


def test_the_projects_tests_know_it(copy):
    code, output = run(
        copy[0],
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-k",
        "plainnet",
        "-m",
        "not slow",
        "tests/test_contract.py",
        "tests/test_rooms.py",
        "tests/dense/backbones/test_plainnet.py",
    )
    assert code == 0, output
    assert int(re.search(r"(\d+) passed", output)[1]) >= 12, output


def test_it_is_found_everywhere(copy):
    code, output = run(
        copy[0],
        "-c",
        "import torch, dense; from mmengine.registry import MODELS;"
        "print(dense.create_model('plainnet_small')(torch.zeros(1, 3, 32, 32)).shape);"
        "print(type(MODELS.build({'type': 'dense.PlainNet', 'arch': 'tiny'})).__name__);"
        "print(type(dense.load_official('published.pth').backbone).__name__)",
    )
    assert code == 0, output
    assert re.search(r"\[1, 1000\]\)\nPlainNet\nPlainNet", output), output


def test_nothing_else_is_touched(copy):
    folder, before = copy
    code, output = run(folder, "tools/analysis/list_models.py", "--write", "--keep-macs")
    assert code == 0, output
    changed = {str(path.relative_to(folder)) for path, text in before.items() if path.read_bytes() != text}
    assert changed <= DERIVED
    assert "plainnet" in (folder / "README.md").read_text()
    assert "plainnet_tiny" in (folder / "docs/models.md").read_text()
