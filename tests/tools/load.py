"""Import a file of ``tools/`` or ``benchmarks/``, which are no packages."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

REPOSITORY = Path(__file__).parents[2]
TOOLS = REPOSITORY / "tools"
BENCHMARKS = REPOSITORY / "benchmarks"


def load_tool(name: str, folder: Path = TOOLS) -> ModuleType:
    """The script ``name`` (as "train", "analysis/compare"), which may import its neighbours."""
    path = folder / f"{name}.py"
    spec = spec_from_file_location(f"script_{name.replace('/', '_')}", path)
    module = module_from_spec(spec)
    sys.path.append(str(path.parent))  # last, for tools/test.py is not Python's test
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module
