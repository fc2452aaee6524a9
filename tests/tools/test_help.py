"""Every command says in a sentence what it is for, and shows an example."""

import re
import subprocess
import sys

import pytest

from .load import BENCHMARKS, REPOSITORY, TOOLS, load_tool

SCRIPTS = sorted([*TOOLS.rglob("*.py"), *BENCHMARKS.glob("*.py")])
SHELL_SCRIPTS = sorted(TOOLS.rglob("*.sh"))


def names(paths):
    return [str(path.relative_to(REPOSITORY)) for path in paths]


def check(text, name):
    sentence, _, rest = text.partition("xample")
    assert re.match(r"[A-Z][^\n]{20,}", sentence.strip()), text
    command = "python" if name.endswith(".py") else "bash"
    assert re.search(rf"^s?:\n +{command} {re.escape(name)} .*\w", rest), f"{name} shows no example of itself"


@pytest.mark.parametrize("name", names(SCRIPTS))
def test_help(name, capsys):
    folder = TOOLS if name.startswith("tools/") else BENCHMARKS
    script = load_tool(name.split("/", 1)[1].removesuffix(".py"), folder)
    with pytest.raises(SystemExit) as stop:
        script.main(["--help"])
    _, usage, text = capsys.readouterr().out.partition("usage: ")  # what is imported may print, too
    assert stop.value.code == 0 and usage
    check(text.split("\n\n", 1)[1], name)


IMPORTS = """
import runpy, sys
sys.argv = [sys.argv[1], "--help"]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit:
    print({"torch", "mmengine", "numpy"} & sys.modules.keys(), file=sys.stderr)
"""


@pytest.mark.parametrize("name", [name for name in names(SCRIPTS) if name.startswith("tools/")])
def test_help_waits_for_no_library(name):
    """What is slow is imported after the options are known; that takes seconds."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, name], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.stdout.startswith("usage: ") and done.stderr == "set()\n"


@pytest.mark.parametrize("name", names(SHELL_SCRIPTS))
def test_help_of_shell_scripts(name):
    done = subprocess.run(["bash", name, "--help"], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr
    check(done.stdout, name)


def test_daily_commands_are_on_top():
    daily = {"train", "test", "predict", "visualize", "export", "publish"}
    daily |= {"prepare_dataset", "convert_checkpoint", "print_config"}
    assert {path.stem for path in TOOLS.glob("*.py")} == daily
