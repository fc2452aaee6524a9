"""Config files: read with options, refused in one line, their numbers checked before anything is built."""

import ast
import inspect
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from fnmatch import fnmatch
from importlib.util import find_spec
from math import inf, isfinite
from pathlib import Path
from typing import Any

import mmengine.runner
from mmengine.config import Config
from mmengine.config import config as library

from .errors import UsageError, nearest, one_line
from .files import list_files

# keys that MMEngine's Runner takes from the config itself
READ_FROM_CONFIG = (
    "activation_checkpointing",
    "compile",
    "efficient_conv_bn_eval",
    "find_unused_parameters",
    "model_wrapper_cfg",
    "new_classes",
    "new_schedule",
    "strategy",
    "sync_bn",
)
OF_A_RUN = {*inspect.signature(mmengine.runner.Runner).parameters, *READ_FROM_CONFIG}
INSTALLED = tuple({sysconfig.get_path(name) for name in ("purelib", "platlib")})

_overrides: dict[str, Any] = {}  # of the config that is being read


def read_file(path: str | Path, options: Mapping[str, Any] | None = None) -> Config:
    """A config file with options over it.

    A config is a program: of ``max_epochs = 30`` and ``train_cfg = dict(max_epochs=max_epochs)`` an option
    that is applied afterwards would reach the first alone. So a name at the top that a run does not read
    itself takes its option where the file assigns it, in the files that it inherits, too. In the same way a
    name that a config assigns anew reaches what its bases made of theirs.

    Args:
        options: by key, as ``max_epochs``, ``metainfo.classes``, ``model.backbone.depth``.

    Raises:
        UsageError: no such file, none that can be evaluated, or options that do not fit.
    """
    path, options = Path(path), dict(options or {})
    reader = _Reader(path)
    cfg = plain = reader.read({})
    for key in options:
        if (name := key.split(".")[0]) not in {*cfg, *OF_A_RUN}:
            hint = nearest(name, {*cfg, *OF_A_RUN}, f"; it has {', '.join(sorted(cfg))}")
            raise UsageError(f"--cfg-options {key}: the config has no {name!r}{hint}")
    derived = {key: value for key, value in options.items() if key.split(".")[0] not in OF_A_RUN}
    derived = {name: cfg[name] for name in reader.assigned_anew(cfg)} | derived
    if derived:
        if reader.lazy and (late := [key for key in derived if not isinstance(derived[key], str)]):
            raise UsageError(
                f"--cfg-options {late[0]}: the config inherits by read_base(), where it would not reach what "
                f"was made of {late[0].split('.')[0]!r}; wanted the keys of the run that it is to change"
            )
        cfg = reader.read(derived)
    for name in options:
        if name not in OF_A_RUN and isinstance(plain.get(name), str):
            _replace(list(cfg.values()), name, plain[name], options[name])
    try:
        cfg.merge_from_dict(deepcopy(options))
    except (KeyError, TypeError, AssertionError, ValueError, IndexError, AttributeError) as error:
        given = " ".join(f"{key}={value}" for key, value in options.items())
        raise UsageError(f"--cfg-options {given}: does not fit the config: {one_line(error)}") from error
    return cfg


def find_run_config(folder: str | Path) -> Path:
    """The config that a run leaves in its work dir.

    Raises:
        FileNotFoundError: there is none, or several.
    """
    configs = list_files(folder, "*.py")
    if len(configs) != 1:
        raise FileNotFoundError(
            f"{folder}: found {len(configs)} configs, wanted one, as a run leaves it; or name the config"
        )
    return configs[0]


class _Reader:
    """Reads a file and what it inherits, and knows which file did what."""

    def __init__(self, path: Path):
        self.path = path
        self.open: list[str] = []  # the file that is being read, behind those that inherit it
        self.failed: list[str] = []
        self.assigned: dict[str, list[str]] = {}  # names at the top -> files, bases first
        self.lazy = False

    def read(self, overrides: dict[str, Any]) -> Config:
        inner = Config._file2dict

        def file2dict(filename, *args, **kwargs):
            self.open.append(str(filename))
            try:
                return inner(filename, *args, **kwargs)
            except BaseException:
                self.failed = self.failed or list(self.open)
                raise
            finally:
                self.open.pop()

        self.assigned.clear()
        _overrides.update(overrides)
        remove = library.RemoveAssignFromAST
        Config._file2dict = staticmethod(file2dict)
        library.RemoveAssignFromAST = lambda key: _Overriding(key, self)
        try:
            self.lazy = self.path.suffix == ".py" and Config._is_lazy_import(str(self.path))
            return Config.fromfile(self.path)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a config may raise anything, and exit
            raise UsageError(self.explain(error)) from error
        finally:
            Config._file2dict, library.RemoveAssignFromAST = staticmethod(inner), remove
            _overrides.clear()

    def assigned_anew(self, cfg: Config) -> Iterator[str]:
        """Names that a file of the user's assigns over a base's, with a value that cannot be merged."""
        for name, files in self.assigned.items():
            ours = [file for file in files if not file.startswith(INSTALLED)]
            anew = len(set(files)) > 1 and ours and files[-1] == ours[-1]
            plain = isinstance(cfg.get(name), (str, int, float, list, tuple)) and not _dicts(cfg[name])
            if anew and plain and name not in OF_A_RUN:
                yield name

    def explain(self, error: BaseException) -> str:
        """One line: file, place, what is wrong."""
        failed = self.failed or [str(self.path)]
        file = self._show(failed[-1])
        for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
            if "__name__" not in frame.f_globals:  # a config is no module
                hint = ""
                if isinstance(error, NameError):
                    hint = nearest(error.name, [n for n in frame.f_globals if not n.startswith("__")])
                elif isinstance(error, (KeyError, AttributeError)) and isinstance(
                    frame.f_globals.get(library.BASE_KEY), Mapping
                ):
                    wanted = str(getattr(error, "name", None) or error.args[0])
                    hint = nearest(wanted.rpartition("'")[0].rpartition("'")[2] or wanted,
                                   frame.f_globals[library.BASE_KEY])  # fmt: skip
                file = self._show(frame.f_code.co_filename)
                return f"{file}: line {line}: {type(error).__name__}: {one_line(error)}{hint}"
        match error:
            case SyntaxError():
                line = f"line {error.lineno}: " if error.lineno else ""
                return f"{file}: not a config that can be read: {line}{error.msg}"
            case UnicodeDecodeError():
                found = f"found the byte {error.object[error.start]:#04x} at {error.start}"
                return f"{file}: not a config that can be read: {found}, wanted text in UTF-8"
            case FileNotFoundError() if len(failed) < 2:
                return f"{file}: _base_: {one_line(error)}"
            case FileNotFoundError():
                missing = Path(failed[-1])
                beside = [other.name for other in missing.parent.glob("*.py")]
                hint = nearest(missing.name, beside)
                return f"{self._show(failed[-2])}: _base_: found no file {missing}{hint}"
            case RecursionError():
                return f"{self.path}: _base_: inherits itself"
            case ImportError():  # of a library whose config it inherits, or of its custom_imports
                return (
                    f"{file}: {one_line(str(error).splitlines()[0] if str(error) else 'ImportError')} "
                    "(pip install .[dense] brings MMDetection, MMSegmentation)"
                )
        name = "" if isinstance(error, OSError) else f"{type(error).__name__}: "
        return f"{file}: not a config that can be read: {name}{one_line(error)}"

    def _show(self, file: str) -> str:
        return str(self.path) if Path(file).resolve() == self.path.resolve() else file


class _Overriding(ast.NodeTransformer):
    """Takes out ``_base_``, as MMEngine's class of that place; lets each name at the top take its option."""

    def __init__(self, key: str, reader: _Reader):
        self.key, self.reader = key, reader

    def visit_Module(self, node: ast.Module) -> ast.Module:
        return self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign | ast.AnnAssign | ast.AugAssign) -> Any:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names = [part.id for target in targets for part in ast.walk(target)
                 if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)]  # fmt: skip
        if names == [self.key]:
            return None
        for name in names:
            self.reader.assigned.setdefault(name, []).append(self.reader.open[-1])
        chosen = [name for name in names if any(key.split(".")[0] == name for key in _overrides)]
        text = f"__import__({__name__!r}, fromlist=['override']).override"
        added = [ast.parse(f"{name} = {text}({name!r}, {name})").body[0] for name in chosen]
        for statement in added:
            for part in ast.walk(statement):
                ast.copy_location(part, node)
        return [node, *added]

    visit_AnnAssign = visit_AugAssign = visit_Assign

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        return node  # its names are its own

    visit_ClassDef = visit_Lambda = visit_FunctionDef


def override(name: str, value: Any) -> Any:
    """What the config that is being read is to take for ``name``, to which it has assigned ``value``."""
    for key, new in _overrides.items():
        first, *rest = key.split(".")
        if first != name or isinstance(new, Mapping):
            continue
        if not rest:
            value = deepcopy(new)
            continue
        place = value
        try:
            for step in rest[:-1]:
                place = place[int(step) if isinstance(place, list) else step]
            place[int(rest[-1]) if isinstance(place, list) else rest[-1]] = deepcopy(new)
        except (KeyError, IndexError, TypeError, ValueError):
            continue  # of another file, or wrong: merging the options says so
    return value


def _dicts(value: Any) -> bool:
    """Whether a value is or holds a dict."""
    return isinstance(value, Mapping) or isinstance(value, (list, tuple)) and any(map(_dicts, value))


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


# ------------------------------------------------------------------------------------------------- checks


def is_number(value: Any) -> bool:
    """Whether a value is a number, and finite."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)


def is_whole(value: Any, least: int = 1) -> bool:
    """Whether a value is a whole number of at least ``least``."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _one_of(*names: str) -> tuple[Callable[[Any], bool], str]:
    return (lambda value: value in names), f"one of {', '.join(names)}"


COUNT = is_whole, "a whole number from 1"
FROM_ZERO = (lambda value: is_whole(value, 0)), "a whole number from 0"
INTERVAL = (lambda value: is_whole(value) or value == -1), "a whole number from 1, or -1 for never"
RATE = (lambda value: is_number(value) and value >= 0), "a number from 0"
BOUND = (lambda value: value == inf or is_number(value) and value > 0), "a number above 0"
SEED = (lambda value: is_whole(value, 0) and value < 2**32), "a whole number from 0 to 4294967295"
NUMBERS = {
    "train_cfg.max_epochs": COUNT,
    "train_cfg.max_iters": COUNT,
    "train_cfg.val_interval": COUNT,
    "train_cfg.val_begin": FROM_ZERO,
    "*_dataloader.batch_size": COUNT,
    "*_dataloader.num_workers": FROM_ZERO,
    "default_hooks.*.interval": INTERVAL,
    "custom_hooks.*.interval": INTERVAL,
    "default_hooks.*.max_keep_ckpts": INTERVAL,
    "param_scheduler*.T_max": COUNT,
    "param_scheduler*.step_size": COUNT,
    "param_scheduler*.begin": FROM_ZERO,
    "param_scheduler*.end": COUNT,
    "param_scheduler*.gamma": RATE,
    "optim_wrapper*.clip_grad.max_norm": BOUND,
    "optim_wrapper*.clip_grad.clip_value": BOUND,
    "optim_wrapper*.accumulative_counts": COUNT,
    "optim_wrapper*.optimizer.lr": RATE,
    "optim_wrapper*.optimizer.weight_decay": RATE,
    "randomness.seed": SEED,
    "log_processor.window_size": COUNT,
    "log_level": _one_of("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"),
    "env_cfg.mp_cfg.mp_start_method": _one_of("fork", "spawn", "forkserver"),
}
DICTS = (
    "model",
    *(f"{split}_{part}" for split in ("train", "val", "test") for part in ("dataloader", "cfg")),
    "optim_wrapper",
    "default_hooks",
    "env_cfg",
    "randomness",
    "log_processor",
    "visualizer",
)


def check(cfg: Config, path: str | Path) -> None:
    """Refuse a run's config whose parts are no dicts, or whose numbers mean nothing.

    Raises:
        UsageError: it names file, key, what was found and what is wanted.
    """
    for key in DICTS:
        if cfg.get(key) is not None and not isinstance(cfg[key], Mapping):
            raise UsageError(f"{path}: {key}: found {one_line(repr(cfg[key]))[:100]}, wanted a dict")
    hooks = cfg.get("custom_hooks") or []
    for i, hook in enumerate(hooks if isinstance(hooks, (list, tuple)) else [hooks]):
        if isinstance(hook, (str, int, float)) or not isinstance(hooks, (list, tuple)):
            raise UsageError(
                f"{path}: custom_hooks.{i}: found {one_line(repr(hook))[:100]}, wanted a list of dicts"
            )
    scope = cfg.get("default_scope")
    if scope is not None and not (isinstance(scope, str) and scope.isidentifier() and find_spec(scope)):
        raise UsageError(
            f"{path}: default_scope: found {scope!r}, wanted a package, as 'pointsuite', 'mmdet'"
        )
    for key, value in _leaves(cfg):
        for pattern, (fits, wanted) in NUMBERS.items():
            if value is not None and fnmatch(key, pattern) and not fits(value):
                raise UsageError(f"{path}: {key}: found {one_line(repr(value))[:100]}, wanted {wanted}")


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, (Mapping, Config, list, tuple)):
        for key, item in value.items() if hasattr(value, "items") else enumerate(value):
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value
