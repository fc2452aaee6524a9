"""``pointsuite COMMAND ...`` runs tools/COMMAND.py, wherever the package was installed.

Examples:
    pointsuite train risurconv/risurconv-s_kicad.py --work-dir work_dirs/mine
    pointsuite test pointsuite::risurconv/risurconv-s_kicad.py work_dirs/mine
    pointsuite visualize part.ply --out part.png
    python -m pointsuite COMMAND --help
"""

import ast
import difflib
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import NoReturn

TOOLS = Path(__file__).parent / ".mim" / "tools"  # in the repository a link to tools/


def find_commands() -> dict[str, Path]:
    """Files of the commands by their names."""
    return {path.stem: path for path in sorted([*TOOLS.glob("*.py"), *TOOLS.glob("analysis/*.py")])}


def main() -> NoReturn:
    """Run the command that ``sys.argv`` names; its ``main`` is that of the script."""
    from .engine import command

    commands = find_commands()
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(f"usage: pointsuite COMMAND ...\n\n{__doc__}\nCommands (--help of each says more):")
        width = max(map(len, commands))
        for key, path in commands.items():
            text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
            print(f"    {key:{width}}  {text.splitlines()[0]}")
        sys.exit()
    if name == "--version":
        from . import __version__

        print(__version__)
        sys.exit()
    if name.replace("-", "_") not in commands:
        close = difflib.get_close_matches(name, commands, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(commands)}"
        sys.exit(f"pointsuite: error: no command {name!r}; {hint}")
    path = commands[name.replace("-", "_")]
    sys.argv[:2] = [f"pointsuite {name}"]  # what its help calls it
    sys.path.append(str(path.parent))  # scripts may import others beside them; last, for one is test.py
    spec = spec_from_file_location(f"pointsuite_tools_{path.stem}", path)
    script = module_from_spec(spec)
    spec.loader.exec_module(script)
    command.run(script.main)


if __name__ == "__main__":
    main()
