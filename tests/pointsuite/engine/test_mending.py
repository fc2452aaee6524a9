import importlib
import sys

import pytest

from pointsuite.engine.mending import mend_on_import


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A package with two modules, as installed, and what is left behind by importing and mending it."""
    (tmp_path / "mended_library").mkdir()
    for name in ("__init__", "broken", "whole"):
        (tmp_path / "mended_library" / f"{name}.py").write_text("flag = False\n")
    monkeypatch.syspath_prepend(tmp_path)
    finders, modules = list(sys.meta_path), set(sys.modules)
    yield "mended_library"
    sys.meta_path[:] = finders
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def mends():
    return {"mended_library.broken": lambda module: setattr(module, "flag", True)}


def test_modules_are_mended_when_they_are_imported(library):
    mend_on_import([library], mends)
    mend_on_import([library], mends)  # once more changes nothing
    assert importlib.import_module("mended_library.broken").flag
    assert not importlib.import_module("mended_library.whole").flag


def test_modules_that_were_imported_before_are_mended_now(library):
    module = importlib.import_module("mended_library.broken")
    assert not module.flag
    mend_on_import([library], mends)
    assert module.flag


def test_nothing_is_asked_for_until_the_package_is_imported(library):
    mend_on_import([library], lambda: pytest.fail("asked"))
    importlib.import_module("json")
