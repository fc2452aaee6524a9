"""Import a file of ``tools/``, which is no package."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

TOOLS = Path(__file__).parents[2] / "tools"
if str(TOOLS) not in sys.path:
    sys.path.append(str(TOOLS))  # some import what they share; last, for tools/test.py is not Python's test


def load_tool(name: str) -> ModuleType:
    spec = spec_from_file_location(f"tool_{name}", TOOLS / f"{name}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
