"""What READMEs and docs name is there: configs, tools, and what links lead to."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("configs/*/README.md")), *sorted(ROOT.glob("docs/*.md"))]
PAGES = [page for page in PAGES if page.name != "changelog.md"]  # names files that are gone


def find_missing(page: Path, root: Path) -> list[str]:
    """Paths of files that the page's commands and links name, but that are not there."""
    text = page.read_text()
    is_readme = page.name == "README.md"  # the guides name files of worked examples, too
    named = re.findall(r"(?<![\w./*{])(?:configs|tools|benchmarks)/[\w./-]+\.(?:py|sh|json|png|txt)", text)
    linked = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text)
    wanted = [root / name for name in named if is_readme] + [page.parent / link for link in linked]
    if page.parent.parent.name == "configs":  # in tables, `a_b.py` is a config of the folder
        rows = "\n".join(line for line in text.splitlines() if line.startswith("|"))
        wanted += [page.parent / name for name in re.findall(r"(?<!\[)`([\w-]+_[\w-]+\.py)`", rows)]
    return [str(path) for path in wanted if not path.exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_nothing_is_missing(page):
    assert find_missing(page, ROOT) == []


def test_every_system_has_a_readme():
    folders = {path.parent for path in ROOT.glob("configs/*/*.py")} - {ROOT / "configs/_base_"}
    assert len(folders) > 15
    assert [folder.name for folder in folders if not (folder / "README.md").is_file()] == []


def test_what_is_missing_is_found(tmp_path):
    page = tmp_path / "configs/net/README.md"
    page.parent.mkdir(parents=True)
    (page.parent / "net_coco.py").touch()
    page.write_text(
        "    run configs/net/net_coco.py\n[a](net_coco.py) [b](https://x.y/z.py)\n| `net_coco.py` | a |\n"
    )
    assert find_missing(page, tmp_path) == []
    page.write_text(
        "    tools/no.py configs/net/gone.py\n[a](../b/README.md#c)\n| `old_coco.py`, `net_coco.py` |\n"
    )
    missing = [Path(path).name for path in find_missing(page, tmp_path)]
    assert missing == ["no.py", "gone.py", "README.md", "old_coco.py"]
