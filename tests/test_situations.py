"""The tests that docs/situations.md names are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMED = re.compile(r"`(tests/[\w/]+\.py)((?:::\w+)?`(?:, `::\w+`)*)")
TEXT = (ROOT / "docs/situations.md").read_text()


@pytest.mark.parametrize("file", sorted({file for file, _ in NAMED.findall(TEXT)}))
def test_named_tests_exist(file):
    names = {
        name for found, rest in NAMED.findall(TEXT) if found == file for name in re.findall(r"::(\w+)", rest)
    }
    assert names <= set(re.findall(r"^def (test_\w+)", (ROOT / file).read_text(), re.MULTILINE))
