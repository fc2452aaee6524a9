import pytest

from pointsuite.engine.catalogue import System, read_macs, replace_between
from pointsuite.engine.errors import UsageError
from pointsuite.engine.network import Network

from ..load import load_tool

tool = load_tool("analysis/list_models")


def test_tables_are_fresh():
    """If not: python tools/analysis/list_models.py --write"""
    tool.main(["--check", "--keep-macs"])


@pytest.mark.slow
def test_macs_are_fresh():
    tool.main(["--check"])


def test_a_stale_table_is_found(tmp_path, monkeypatch):
    (tmp_path / "docs").mkdir()
    for name in ("README.md", "docs/models.md"):
        (tmp_path / name).write_text((tool.ROOT / name).read_text())
    for folder in ("configs", "tests"):
        (tmp_path / folder).symlink_to(tool.ROOT / folder)
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    tool.main(["--check", "--keep-macs"])
    models = tmp_path / "docs/models.md"
    text = models.read_text()
    models.write_text(text.replace("28,360,168", "28,360,169"))
    with pytest.raises(UsageError, match=r"docs/models\.md is stale"):
        tool.main(["--check", "--keep-macs"])
    tool.main(["--write", "--keep-macs"])
    assert models.read_text() == text


def test_marks_must_be_there():
    assert replace_between("a<b>x</b>c", "<b>", "</b>", "new") == "a<b>\nnew</b>c"
    with pytest.raises(ValueError, match=r"found no <b>"):
        replace_between("none", "<b>", "</b>", "new")


def test_macs_are_read():
    assert read_macs("| `a_b` | 1,234 | 4.5 G | 81 |\n| `c` | 5 | - | |\n") == {"a_b": "4.5 G", "c": "-"}


@pytest.mark.parametrize(
    ("paper", "venue"),
    [
        ('Ding, "DaViT: Dual", ECCV 2022, arXiv 2204.03645', "ECCV 2022"),
        (
            'A, B, "Title", IEEE Transactions on Image Processing 2017, arXiv 1',
            "IEEE Transactions on Image Processing 2017",
        ),
        ('A, "Title", arXiv 2309.05239', "arXiv 2309.05239"),
    ],
)
def test_venue(paper, venue):
    class Published(Network):
        pass

    Published.paper = paper
    assert System("name", Published, "dense.backbones", None, 0).venue == venue
