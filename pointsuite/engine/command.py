"""What the command lines share: options, config, model, runner, and errors of one line.

Nothing heavy is imported before options are parsed: ``--help`` must not wait for PyTorch.
"""

import argparse
import difflib
import os
import sys
import traceback
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .errors import UsageError, explain, write_report

if TYPE_CHECKING:
    from mmengine.config import Config
    from torch import nn

    from .runner import Runner

CONFIGS = Path(__file__).parents[1] / ".mim" / "configs"  # in the repository a link to configs/
_current: dict[str, Any] = {}  # the config of this command and its file, for errors


class Parser(argparse.ArgumentParser):
    """An argument parser that keeps the lines of its description, and whose errors are one line."""

    def __init__(self, *args, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs):
        super().__init__(*args, formatter_class=formatter_class, **kwargs)
        shown = "show the whole report of an error"
        self.add_argument("--traceback", action="store_true", default=argparse.SUPPRESS, help=shown)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


class KeyValue(argparse.Action):
    """``KEY=VALUE ...`` as MMEngine's DictAction reads it, with an error that shows what was wrong."""

    def __call__(self, parser, namespace, values, option_string=None):
        from mmengine.config import DictAction

        for value in values:
            key, equals, _ = value.partition("=")
            if not (key and equals):
                parser.error(f"{option_string}: found {value!r}, wanted KEY=VALUE")
        try:
            DictAction(self.option_strings, self.dest, nargs="+")(parser, namespace, values, option_string)
        except (AssertionError, ValueError) as error:  # brackets
            parser.error(f"{option_string}: {error}")


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """The ``type`` of an option that is a whole number from ``least`` to ``most``."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = None
        if number is None or number < least or most is not None and number > most:
            upto = "" if most is None else f" to {most}"
            raise argparse.ArgumentTypeError(f"found {text!r}, wanted a whole number from {least}{upto}")
        return number

    return parse


def positive(text: str) -> float:
    """The ``type`` of an option that is a finite number above zero."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"found {text!r}, wanted a number above 0")
    return number


seed = whole(0, 2**32 - 1)


def build_parser(description: str) -> Parser:
    """A parser with the options of every run."""
    parser = Parser(description=description)
    parser.add_argument("config", help="config file")
    parser.add_argument("--work-dir", help="where logs and checkpoints go (default: work_dirs/<config name>)")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=KeyValue,
        default={},
        metavar="KEY=VALUE",
        help="override the config; a new value of a name at its top, as data_root=DIR or max_epochs=2, goes "
        "wherever it was used",
    )
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    parser.add_argument("--local-rank", "--local_rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=seed, help="seed of weights, order and augmentation")
    parser.add_argument("--deterministic", action="store_true", help="use deterministic algorithms only")
    return parser


def add_report_option(parser: Parser) -> None:
    """``--no-report``, which :func:`load_config` heeds."""
    parser.add_argument("--no-report", action="store_true", help="leave no report.html in the work dir")


def load_config(args: argparse.Namespace) -> "Config":
    """The config file with the options of :func:`build_parser` applied.

    A command that takes a checkpoint takes a work dir for both, too: then ``args`` names what is in it.

    Raises:
        UsageError: no such file, no config, imports of what is not there, options that do not fit, or values
            that mean nothing.
    """
    from .config import check, find_run_config, read_file

    path = find_config(args.config)
    if path.is_dir() and "checkpoint" in args:
        if args.checkpoint is None and getattr(args, "weights", None) is None:
            args.checkpoint = args.config
        path = find_run_config(path)
        args.config = str(path)
    if not path.is_file():
        raise UsageError(f"{path}: {'a folder' if path.is_dir() else 'no such config'}{_suggest(path)}")
    cfg = read_file(path, args.cfg_options)
    if "model" not in cfg:
        raise UsageError(f"{path}: has no 'model', wanted the config of a run")
    check(cfg, path)
    # torchrun tells each process its rank by the environment, older launchers by the option
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get("work_dir") or str(Path("work_dirs") / path.stem)
    if getattr(args, "no_report", False):
        cfg.default_hooks = {**cfg.get("default_hooks", {}), "report": None}
    randomness = dict(cfg.get("randomness", {}))
    if args.deterministic:
        randomness["deterministic"] = True
    if args.seed is not None:
        randomness["seed"] = args.seed
        _seed_datasets(cfg.get("train_dataloader", {}).get("dataset"), args.seed)
    if randomness:
        cfg.randomness = randomness
    _current.update(config=cfg, file=str(path))
    return cfg


def find_config(name: str) -> Path:
    """The path of a config: itself, one of this package's, or ``PACKAGE::PATH``, as MMEngine writes it.

    Raises:
        UsageError: no such package, or one without configs.
    """
    package, colons, rest = name.partition("::")
    if not colons:
        path, own = Path(name), CONFIGS / name
        return own if not path.exists() and not path.is_absolute() and own.is_file() else path
    try:
        spec = find_spec(package) if package.isidentifier() else None
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(f"{name}: found no package {package!r}, wanted one that is installed")
    folder = Path(spec.submodule_search_locations[0], ".mim", "configs")
    if not folder.is_dir():
        raise UsageError(f"{name}: found no {folder}, wanted a package with configs")
    return folder / rest


def _seed_datasets(dataset: Any, seed: int) -> None:
    """Give a data set, and those that it repeats or joins, the seed, where their configs have one."""
    if not isinstance(dataset, dict):
        return
    if "seed" in dataset:
        dataset["seed"] = seed
    for part in (dataset.get("dataset"), *(dataset.get("datasets") or ())):
        _seed_datasets(part, seed)


def read_config(
    path: str | os.PathLike, options: dict | None = None, seed: int | None = None, work_dir: str | None = None
) -> "Config":
    """:func:`load_config` without a command line; ``options`` are those of ``--cfg-options``."""
    args = build_parser("").parse_args([str(path)])
    args.cfg_options, args.seed, args.work_dir = dict(options or {}), seed, work_dir
    return load_config(args)


def _suggest(path: Path) -> str:
    known = {}
    for folder in (CONFIGS.resolve(), Path("configs").resolve()):
        for file in folder.glob("**/*.py"):
            if "_base_" not in file.parts:
                named = os.path.relpath(file)
                inside = file.is_relative_to(CONFIGS.resolve()) and named.startswith("..")
                known[file.name] = str(file.relative_to(CONFIGS.resolve())) if inside else named
    close = difflib.get_close_matches(path.with_suffix(".py").name, known, n=3, cutoff=0.7)
    return f"; did you mean {' or '.join(known[name] for name in close)}?" if close else ""


def build_model(cfg: "Config", **options) -> "nn.Module":
    """The model of ``cfg``, with ``options`` over its own, as its library builds it."""
    from mmengine.registry import MODELS, DefaultScope

    with DefaultScope.overwrite_default_scope(cfg.get("default_scope", "mmengine")):
        return MODELS.build({**cfg.model, **options})


def check_test(cfg: "Config", path: str) -> None:
    """Raise a UsageError that names ``path`` where ``cfg`` has no test."""
    for key in ("test_cfg", "test_dataloader", "test_evaluator"):
        if cfg.get(key) is None:
            raise UsageError(f"{path}: has no {key!r}, wanted a config with a test")


def build_runner(cfg: "Config") -> "Runner":
    """The runner of ``cfg``.

    Raises:
        UsageError: the config asks for a device or for processes that are not there.
    """
    import torch

    from .runner import Runner

    if not torch.cuda.is_available():
        if cfg.launcher in ("slurm", "mpi"):
            raise UsageError(f"--launcher {cfg.launcher} needs an NVIDIA GPU, found none; pytorch needs none")
        optim = cfg.get("optim_wrapper", {})
        dtype = optim.get("dtype", "bfloat16")
        if str(optim.get("type")).endswith("AmpOptimWrapper") and dtype != "bfloat16":
            raise UsageError(
                f"mixed precision in {dtype} needs an NVIDIA GPU, found none; bfloat16 needs none"
            )
    if cfg.launcher == "pytorch" and "RANK" not in os.environ:
        raise UsageError(
            "--launcher pytorch is for processes that torchrun starts: bash tools/dist_train.sh CONFIG NPROC"
        )
    return Runner.from_cfg(cfg)


def run(main: Callable[[], int | None], *errors: type[Exception]) -> NoReturn:
    """Exit with ``main``; every error is one line on stderr.

    What the user can mend (``errors``, too) is said as it is; of anything else the whole report goes to a
    file in the work dir or among the temporary files, which the line names. ``--traceback`` shows it, too.
    """
    name = Path(sys.argv[0]).name
    try:
        code = main()
        if "mmengine.dist" in sys.modules and sys.modules["mmengine.dist"].is_distributed():
            sys.modules["torch"].distributed.destroy_process_group()
    except KeyboardInterrupt as error:
        print(f"\n{str(error) or 'interrupted'}", file=sys.stderr)
        sys.exit(128 + getattr(error, "signum", 2))
    except Exception as error:
        if "--traceback" in sys.argv:
            traceback.print_exception(error)
        if isinstance(error, errors):
            sys.exit(f"{name}: error: {' '.join(str(error).split())}")
        line, complete = explain(error, **_current)
        if not complete:
            folder = _current["config"].get("work_dir") if _current else None
            report = write_report(error, Path(folder) if folder else None)
            where = f"the whole report is in {report}" if report else "no report could be written"
            line += f" ({where}; --traceback shows it)"
        sys.exit(f"{name}: error: {line}")
    sys.exit(code or 0)
