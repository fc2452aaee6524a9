"""A page that says one thing is faster than another has the command that measures it in the same section."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PAGES = [
    page
    for page in (
        REPOSITORY / "README.md",
        *REPOSITORY.glob("docs/*.md"),
        *REPOSITORY.glob("configs/*/README.md"),
    )
    if page.name not in ("changelog.md", "models.md")
]
CLAIM = re.compile(
    r"\d\s+times\s+(?:as\s+(?:fast|long|slow)|faster|slower|the\s+(?:speed|time)\b)"
    r"|\d\s*%\s+(?:faster|slower)"
    r"|\b\w+(?:-?fold|\s+times)\s+(?:as\s+fast|faster|the\s+speed)"
    r"|1/\d[\d.]*\s+of\s+\S+\s+time\b"
    r"|\d\s?x\s+(?:faster|the\s+speed)"
    r"|published\s+code\s+(?:takes|needs)\s+\d",
    re.IGNORECASE,
)
COMMAND = re.compile(r"python (?:\S+/)*(?:benchmarks|tools)/\S+\.py")
OF_AUTHORS = re.compile(r"^#+ .*(?:published|authors|paper)", re.IGNORECASE)


def unproven(text: str) -> list[str]:
    """Claims in sections without a command, but for those that tell what authors state."""
    sections = re.split(r"^(?=#+ )", text, flags=re.MULTILINE)
    open_ones = [s for s in sections if not COMMAND.search(s) and not OF_AUTHORS.match(s)]
    return [claim[0] for section in open_ones for claim in CLAIM.finditer(section)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_speeds_have_a_command_beside_them(page):
    assert not unproven(page.read_text())


@pytest.mark.parametrize(
    "claim",
    [
        "ours is 2.3 times as fast",
        "it is six times faster",
        "takes 1.4 times the\ntime of it",
        "16 % faster",
        "takes 1/1.3 of timm's time",
        "The published code takes 27 and 55 units.",
    ],
)
def test_claims_are_found(claim):
    assert unproven(f"# Speed\n\n{claim}.\n")
    assert not unproven(f"# Speed\n\n{claim}:\n\n    python benchmarks/points.py\n")
    assert not unproven(f"## Published results\n\n{claim}\n")
    assert unproven(f"# Run\n\n    python tools/train.py CONFIG\n\n## Speed\n\n{claim}\n")
