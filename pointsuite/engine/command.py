"""What ``tools/train.py`` and ``tools/test.py`` share: options, config, runner, and errors of one line."""

import argparse
import difflib
import inspect
import os
import sys
import tokenize
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import mmengine.runner
import torch
from mmengine.config import Config, DictAction
from mmengine.dist import is_distributed

from .checkpoint import CheckpointError
from .hooks import NonFiniteLossError
from .runner import Runner, find_latest_checkpoint

# keys that MMEngine's Runner takes from the config itself
READ_FROM_CONFIG = (
    "activation_checkpointing",
    "compile",
    "efficient_conv_bn_eval",
    "find_unused_parameters",
    "model_wrapper_cfg",
    "sync_bn",
)


class UsageError(ValueError):
    """The command line or the config asks for something that cannot be done."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


class KeyValue(DictAction):
    """``KEY=VALUE ...`` as MMEngine reads it, with an error that shows what was wrong."""

    def __call__(self, parser, namespace, values, option_string=None):
        for value in values:
            key, equals, _ = value.partition("=")
            if not (key and equals):
                parser.error(f"{option_string}: found {value!r}, wanted KEY=VALUE")
        try:
            super().__call__(parser, namespace, values, option_string)
        except AssertionError as error:  # brackets
            parser.error(f"{option_string}: {error}")


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
        help="override the config; a new text at its top, as data_root=DIR, goes wherever it was used",
    )
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    parser.add_argument("--local-rank", "--local_rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help="seed of weights, order and augmentation")
    parser.add_argument("--deterministic", action="store_true", help="use deterministic algorithms only")
    return parser


def load_config(args: argparse.Namespace) -> Config:
    """The config file with the options of :func:`build_parser` applied.

    Raises:
        UsageError: no such file, no config, imports of what is not there, or options that do not fit.
    """
    path = Path(args.config)
    if not path.is_file():
        raise UsageError(f"{path}: {'a folder' if path.is_dir() else 'no such config'}{_suggest(path)}")
    try:
        cfg = Config.fromfile(path)
    except (SyntaxError, tokenize.TokenError, OSError) as error:
        raise UsageError(f"{path}: not a config that can be read: {error}") from error
    except ImportError as error:  # of a library whose config it inherits, or of its custom_imports
        raise UsageError(
            f"{path}: {str(error).splitlines()[0]} (pip install .[dense] brings MMDetection, MMSegmentation)"
        ) from error
    if "model" not in cfg:
        raise UsageError(f"{path}: has no 'model', wanted the config of a run")
    _merge_options(cfg, args.cfg_options)
    # torchrun tells each process its rank by the environment, older launchers by the option
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get("work_dir") or str(Path("work_dirs") / path.stem)
    randomness = dict(cfg.get("randomness", {}))
    if args.deterministic:
        randomness["deterministic"] = True
    if args.seed is not None:
        randomness["seed"] = args.seed
        dataset = cfg.get("train_dataloader", {}).get("dataset", {})
        if "seed" in dataset:
            dataset.seed = args.seed
    if randomness:
        cfg.randomness = randomness
    return cfg


def _suggest(path: Path) -> str:
    folders = (Path(__file__).parents[2] / "configs", Path("configs").resolve())
    files = (file for folder in folders for file in folder.glob("**/*.py") if "_base_" not in file.parts)
    known = {file.name: os.path.relpath(file) for file in files}
    close = difflib.get_close_matches(path.with_suffix(".py").name, known, n=3, cutoff=0.7)
    return f"; did you mean {' or '.join(known[name] for name in close)}?" if close else ""


def _merge_options(cfg: Config, options: dict) -> None:
    """Apply ``--cfg-options``.

    A config's text is evaluated before its options are known: of ``data_root = "data"`` and
    ``dataset = dict(data_root=data_root)`` an option would reach the first alone. So a new text at the top
    of the config also replaces the old one wherever a key below has that name and that text.
    """
    read = {*inspect.signature(mmengine.runner.Runner).parameters, *READ_FROM_CONFIG}
    known = {*cfg, *read}
    for key in options:
        if (name := key.split(".")[0]) not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; it has {', '.join(sorted(cfg))}"
            raise UsageError(f"--cfg-options {key}: the config has no {name!r}{hint}")
    for name in options:
        if name not in read and isinstance(cfg.get(name), str):
            _replace(list(cfg.values()), name, cfg[name], options[name])
    try:
        cfg.merge_from_dict(options)
    except (KeyError, TypeError, AssertionError) as error:
        given = " ".join(f"{key}={value}" for key, value in options.items())
        raise UsageError(f"--cfg-options {given}: does not fit the config: {error}") from error


def _replace(value: Any, name: str, old: str, new: Any) -> None:
    """Below ``value``, give the keys ``name`` that are ``old`` the value ``new``."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key == name and item == old:
                value[key] = new
            else:
                _replace(item, name, old, new)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _replace(item, name, old, new)


def build_runner(cfg: Config) -> Runner:
    """The runner of ``cfg``.

    Raises:
        UsageError: the config asks for a device or for processes that are not there.
    """
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


def find_checkpoint(path: str) -> str:
    """The checkpoint that a user names: a file, a URL, or a work dir for its last one.

    Raises:
        UsageError: there is none.
    """
    if "://" in path or Path(path).is_file():
        return path
    if Path(path).is_dir() and (latest := find_latest_checkpoint(path)):
        return str(latest)
    raise UsageError(f"{path}: no such checkpoint")


def run(main: Callable[[], None], *errors: type[Exception]) -> NoReturn:
    """Exit with ``main``; errors that the user can mend (these ``errors``, too) are one line on stderr."""
    try:
        main()
        if is_distributed():
            torch.distributed.destroy_process_group()
    except (UsageError, CheckpointError, NonFiniteLossError, OSError, *errors) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: error: {error}")
    except KeyboardInterrupt as error:
        print(f"\n{error or 'interrupted'}", file=sys.stderr)
        sys.exit(128 + getattr(error, "signum", 2))
    sys.exit(0)
