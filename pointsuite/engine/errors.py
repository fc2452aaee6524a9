"""Errors: what the user can mend is one line; of anything else, the whole report goes to a file."""

import builtins
import difflib
import dis
import inspect
import io
import logging
import platform
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

LONGEST = 700  # characters of a line


class UsageError(ValueError):
    """The command line, the config or a file asks for something that cannot be done."""


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, read, downloaded or fitted to a model."""


class NonFiniteLossError(ArithmeticError):
    """The loss became NaN or infinite."""


MENDABLE = (UsageError, CheckpointError, NonFiniteLossError, OSError)  # whose messages say it all
OURS = ("pointsuite", "dense")  # packages that raise a ValueError for their users
RAISE = dis.opmap["RAISE_VARARGS"]


def nearest(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """ "; did you mean ...?" with the names of `known` that resemble `name`, or `otherwise`."""
    close = difflib.get_close_matches(str(name), [str(other) for other in known], n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(dict.fromkeys(close))}?" if close else otherwise


def one_line(text: object) -> str:
    """A message without line breaks, cut where it gets too long."""
    line = " ".join(str(text).split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}..."


def explain(error: BaseException, config: Mapping | None = None, file: str = "config") -> tuple[str, bool]:
    """What to tell the user in one line, and whether that is all there is to say.

    Args:
        config: of the run, where one was read: an error of what was built from it is named by its key.
        file: of the config.
    """
    if found := _explain_worker(error):
        return found
    for link in _chain(error):
        unnamed = isinstance(link, OSError) and link.errno is not None and link.filename is None
        if unnamed and (path := _find_written(link)):
            return f"{path}: {link.strerror}", True
        if isinstance(link, MENDABLE):
            return one_line(link) or type(link).__name__, True
    if found := _explain_resources(error):
        return found
    if config is not None and (found := _explain_build(error, dict(config.items()), file)):
        return found
    if isinstance(error, ValueError) and _is_raised_here(error):
        return one_line(error), True
    return f"{type(error).__name__}: {one_line(error)}".removesuffix(": "), False


def _is_raised_here(error: BaseException) -> bool:
    """Whether a ``raise`` of this project made the error, not something that a line of it called."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    if place is None or _module(place.tb_frame).partition(".")[0] not in OURS:
        return False
    return place.tb_frame.f_code.co_code[place.tb_lasti] == RAISE


def write_report(error: BaseException, folder: Path | None = None) -> Path | None:
    """The whole report of an error as a file in `folder`, or in that of temporary files; None if neither
    can be written."""
    text = "".join(traceback.format_exception(error))
    versions = {name: getattr(sys.modules.get(name), "__version__", "not imported") for name in
                ("torch", "mmengine", "mmcv", "mmdet", "mmseg")}  # fmt: skip
    head = (
        f"{' '.join(sys.argv)}\nPython {platform.python_version()} on {platform.platform()}\n{versions}\n\n"
    )
    for place in (folder, Path(tempfile.gettempdir())):
        if place is None or not place.is_dir():
            continue
        path = place / f"error_{time.strftime('%Y%m%d_%H%M%S')}_{time.monotonic_ns() % 1000000:06}.txt"
        try:
            path.write_text(head + text, encoding="utf-8", errors="backslashreplace")
        except OSError:
            path.unlink(missing_ok=True)  # as on a full disk
            continue
        return path
    return None


def _find_written(error: OSError) -> str | None:
    """The file that was open where the system refused to write, as on a full disk: it does not say so."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        for value in frame.f_locals.values():
            name = getattr(value, "name", None) if isinstance(value, io.IOBase) else None
            if isinstance(value, logging.FileHandler):
                name = value.baseFilename
            if isinstance(name, (str, Path)):
                return str(name)
            if isinstance(value, Path) and value.suffix and value.parent.is_dir():
                return str(value)
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, and what it came from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


# ------------------------------------------------------------------------------------- loaders, resources


def _explain_worker(error: BaseException) -> tuple[str, bool] | None:
    """An error that PyTorch brings from a loader's worker as a text."""
    for link in reversed(list(_chain(error))):
        text = str(link)
        if match := re.search(r"DataLoader worker \(pid ([\d, ]+)\) is killed by signal: ([\w ]+)", text):
            return (
                f"a worker of the data loader (pid {match[1]}) was killed by the signal {match[2].strip()}; "
                "if memory ran out, fewer workers (num_workers) or a smaller batch_size need less",
                True,
            )
        if match := re.search(r"DataLoader worker \(pid\(s\) ([\d, ]+)\) exited unexpectedly", text):
            return f"a worker of the data loader (pid {match[1]}) ended without a word", True
        if re.match(r"Caught \w+ in DataLoader worker process \d+\.\nOriginal Traceback", text):
            lines = text.rsplit('\n  File "', 1)[-1].splitlines()[1:]
            first = next((i for i, line in enumerate(lines) if line and not line[0].isspace()), len(lines))
            name, _, message = " ".join(lines[first:]).partition(": ")
            kind = _find_class(name)
            said = one_line(message)
            if kind is not None and issubclass(kind, (*MENDABLE, ValueError)):
                return said, True
            return f"{name.rpartition('.')[2]} in a worker of the data loader: {said}", False
    return None


def _find_class(name: str) -> type | None:
    """The class of an error by its full name, as tracebacks write it."""
    module, _, name = name.strip().rpartition(".")
    found = getattr(sys.modules.get(module, builtins), name, None)
    return found if isinstance(found, type) else None


def _explain_resources(error: BaseException) -> tuple[str, bool] | None:
    for link in _chain(error):
        if type(link).__name__ == "OutOfMemoryError" or isinstance(link, MemoryError):
            said = one_line(link)[:200] or "memory ran out"
            return f"{said}; a smaller batch_size needs less, and on a GPU --amp", True
        if "DefaultCPUAllocator: can't allocate memory" in str(link):
            return f"{one_line(link)[:200]}; a smaller batch_size needs less", True
    return None


# ------------------------------------------------------------------------------------------------- configs


def _explain_build(error: BaseException, config: Mapping, file: str) -> tuple[str, bool] | None:
    """An error of building what a config describes, with the key under which it stands there."""
    part, frame, last, path = None, None, None, None
    for last, _ in traceback.walk_tb(_deepest(error).__traceback__):
        if (found := _built(last)) is not None:
            part, frame, path = found, last, find_path(config, found) or path
    if part is None:
        if isinstance(error, ValueError) and last and _module(last).startswith("mmengine.runner"):
            return f"{file}: {one_line(error)}", True
        return None
    where = f"{file}: {path}" if path else file
    cls = frame.f_locals.get("obj_cls") or frame.f_locals.get("runner_cls")
    if cls is None and (match := re.search(r"(\w+)\.__init__\(\) got an unexpected", str(error))):
        cls = last.f_globals.get(match[1])  # built without a registry, as PyTorch's DataLoader
    name = getattr(cls, "__name__", None) or str(part.get("type", "it"))
    text = one_line(error.args[0] if isinstance(error, KeyError) and error.args else error)
    if frame is last and isinstance(error, KeyError) and cls is None and "registry" in frame.f_locals:
        registry = frame.f_locals["registry"]
        if "type" not in part:
            return f"{where}: found no 'type' in {one_line(part)[:100]}, wanted one", True
        wanted = f"wanted a name of the registry {registry.name!r} (scope {registry.scope})"
        known = _registered(registry.root)
        return f"{where}.type: found {part['type']!r}, {wanted}" + (
            nearest(str(part["type"]).rpartition(".")[2], known)
        ), True
    if isinstance(error, TypeError):
        if match := re.search(r"got an unexpected keyword argument '(\w+)'", text):
            known = sorted(_arguments(cls) - {"self", match[1]})
            given = f"={part[match[1]]!r}" if match[1] in part else ""
            hint = nearest(match[1], known, f"; it has {', '.join(known)}" if known else "")
            return one_line(f"{where}: found {match[1]}{given}, which {name} does not take{hint}"), True
        if match := re.search(r"missing \d+ required (?:positional|keyword-only) arguments?: (.*)", text):
            return f"{where}: found no {match[1]}, which {name} wants", True
    said = f"{where} ({name}): {text}"
    if isinstance(error, (ValueError, ImportError)):
        return said, True
    return f"{where} ({name}): {type(error).__name__}: {text}", False


def _deepest(error: BaseException) -> BaseException:
    """The error of a chain that says where it was raised: an outer one may have been raised anew."""
    return next((link for link in _chain(error) if any(_built(frame) is not None for frame, _ in
                 traceback.walk_tb(link.__traceback__))), error)  # fmt: skip


def _built(frame: Any) -> Mapping | None:
    """The part of a config that a frame of MMEngine builds."""
    name, module = frame.f_code.co_name, _module(frame)
    if name == "build_from_cfg" and module == "mmengine.registry.build_functions":
        part = frame.f_locals.get("cfg")
        return part if isinstance(part, Mapping) else None
    if name.startswith("build_") and module.endswith((".runner.runner", ".runner.checkpoint")):
        for key in (
            "dataloader",
            "loop",
            "optim_wrapper",
            "scheduler",
            "evaluator",
            "log_processor",
            "model",
        ):
            if isinstance(frame.f_locals.get(key), Mapping):
                return frame.f_locals[key]
    return None


def _module(frame: Any) -> str:
    return frame.f_globals.get("__name__") or ""


def find_path(config: Any, part: Mapping) -> str | None:
    """Under which keys ``part``, or else something of its ``type``, stands in a config: ``model.head``."""
    for same in (lambda found: _equal(found, part), lambda found: found.get("type") == part.get("type", 0)):
        for path, found in _walk(config):
            if path and same(found):
                return path
    return None


def _walk(value: Any, path: str = "") -> Iterator[tuple[str, Mapping]]:
    if isinstance(value, Mapping):
        yield path, value
        items: Iterable = value.items()
    else:
        items = enumerate(value) if isinstance(value, (list, tuple)) else ()
    for key, item in items:
        if isinstance(item, (Mapping, list, tuple)):
            yield from _walk(item, f"{path}.{key}" if path else str(key))


def _equal(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except (RuntimeError, ValueError):  # tensors, arrays
        return False


def _registered(registry: Any) -> set[str]:
    names = set(registry.module_dict)
    return names.union(*map(_registered, registry.children.values()))


def _arguments(cls: Any) -> set[str]:
    """Names that a class, or one it inherits from, or a function takes."""
    found: set[str] = set()
    for part in getattr(cls, "__mro__", [cls]):
        function = part.__dict__.get("__init__") if isinstance(part, type) else part
        try:
            parameters = inspect.signature(function).parameters.values() if function else ()
        except (TypeError, ValueError):
            continue
        found |= {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    return found
