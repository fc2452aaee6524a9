"""Checkpoints: written atomically, read without running code, compared with the model key by key.

A checkpoint is a file of :func:`torch.save` that holds tensors and plain data (numbers, strings, None, dicts,
lists, tuples). Unpickling anything else runs code that the file chooses, so nothing else is written or read.
A ``.safetensors`` file holds weights, and as its metadata ``meta`` in JSON and a digest of the weights.
"""

import hashlib
import json
import os
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urldefrag, urlparse

import numpy as np
import torch
from torch import Tensor, nn
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from .errors import CheckpointError, UsageError
from .files import list_files, read_text
from .lock import is_alive

SUFFIXES = (".pth", ".safetensors")  # of what a work dir is searched for
LOSSES = ("attention_loss.", "criterion.", "frame_loss.", "loss_function.")  # what tasks' models call theirs
PLAIN_TYPES = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)


# ----------------------------------------------------------------------------------------------- writing


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Open ``path`` for bytes such that, whatever happens, it holds all of the old or all of the new.

    The bytes go to ``.NAME.PID.tmp`` beside it, which is renamed once it is on the disk, removed on an error.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with naming(path, temporary):
        try:
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the renaming itself must survive a power cut
        finally:
            os.close(folder)


@contextmanager
def naming(path: str | os.PathLike, temporary: str | os.PathLike = "") -> Iterator[None]:
    """An error of the system within, as "No space left on device", names ``path`` if it names no other file.

    Args:
        temporary: a file that nobody needs to know of.
    """
    try:
        yield
    except BaseException as error:
        found = _find_errno(error)
        if found is None or found.filename not in (None, str(temporary)):
            raise
        raise OSError(found.errno, found.strerror, str(path)) from error


def remove_abandoned(folder: str | os.PathLike) -> None:
    """Remove temporary files of :func:`atomic_write` whose processes have ended."""
    for path in Path(folder).glob(".*.tmp"):
        match = re.fullmatch(r"\..+\.(\d+)\.tmp", path.name)
        if match and (int(match[1]) == os.getpid() or not is_alive(int(match[1]))):
            path.unlink(missing_ok=True)


def _find_errno(error: BaseException) -> OSError | None:
    """The error of the system behind one, as PyTorch hides it while it writes."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error
        error = error.__cause__ or error.__context__
    return None


def to_plain(value: Any, name: str = "checkpoint") -> Any:
    """``value`` as tensors on the CPU and plain data; ``name`` is what errors call it.

    NumPy numbers become Python's, arrays become tensors, mappings dicts, parameters tensors.

    Raises:
        CheckpointError: something in it is neither; the message names its key and class.
    """
    if isinstance(value, Tensor):
        return value.detach().cpu().as_subclass(Tensor)
    if isinstance(value, np.generic) and not isinstance(value.item(), np.generic):  # np.longdouble stays
        return to_plain(value.item(), name)
    if type(value) in PLAIN_TYPES:
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return torch.tensor(value)
    if isinstance(value, Mapping):
        plain = OrderedDict() if isinstance(value, OrderedDict) else {}
        for key, item in value.items():
            plain[to_plain(key, f"a key of {name}")] = to_plain(item, f"{name}[{key!r}]")
        if hasattr(value, "_metadata"):  # the versions of modules in a state dict
            plain._metadata = to_plain(value._metadata, f"{name}._metadata")
        return plain
    if isinstance(value, (list, tuple)):
        plain = [to_plain(item, f"{name}[{i}]") for i, item in enumerate(value)]
        return tuple(plain) if isinstance(value, tuple) else plain
    kind = type(value)
    raise CheckpointError(f"{name} is a {kind.__module__}.{kind.__qualname__}, wanted a tensor or plain data")


def save_checkpoint(obj: Any, path: str | os.PathLike) -> None:
    """Write ``obj`` (see :func:`to_plain`) to ``path`` atomically, as ``.safetensors`` where it is called so.

    Raises:
        CheckpointError: ``obj`` holds something that :func:`load_checkpoint` would refuse, or more than
            weights and ``meta``, for a ``.safetensors`` file.
        OSError: the file cannot be written; what was there before is intact.
    """
    plain = to_plain(obj)
    content = _to_safetensors(plain, path) if is_safetensors(path) else None
    with atomic_write(path) as file:
        if content is None:
            torch.save(plain, file)
        else:
            file.write(content)


def is_safetensors(path: str | os.PathLike) -> bool:
    """Whether a path is that of a ``.safetensors`` file."""
    return Path(path).suffix.lower() == ".safetensors"


def _to_safetensors(plain: Any, path: str | os.PathLike) -> bytes:
    from safetensors.torch import save

    state, meta = plain, None
    if isinstance(plain, Mapping) and "state_dict" in plain:
        state, meta = plain["state_dict"], plain.get("meta") or {}
        if more := sorted(map(str, plain.keys() - {"state_dict", "meta"})):
            raise CheckpointError(f"{path}: found {', '.join(more)} to write, wanted weights and meta alone")
    state = find_state_dict(state, str(path))
    # as this format wants them: none shares its memory, each is laid out in order
    state = {key: value.clone(memory_format=torch.contiguous_format) for key, value in state.items()}
    metadata = {"format": "pt", "sha256": _digest(state)}
    if meta is not None:
        try:
            metadata["meta"] = json.dumps(meta)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: meta: {error}, wanted what JSON can hold") from error
    return _in_order(save(state, metadata))


def _in_order(content: bytes) -> bytes:
    """A file of safetensors whose metadata is sorted: the library leaves its order to chance."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at multiples of 8
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def _digest(state_dict: Mapping[str, Tensor]) -> str:
    """Of names, types, shapes and numbers."""
    digest = hashlib.sha256()
    for key in sorted(state_dict):
        value = state_dict[key]
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


# ----------------------------------------------------------------------------------------------- finding


def find_latest_checkpoint(work_dir: str | os.PathLike) -> Path | None:
    """The checkpoint that ``work_dir/last_checkpoint`` names, wherever the folder is now; None without one.

    Raises:
        CheckpointError: it names a file that does not exist, or no file at all.
    """
    pointer = Path(work_dir) / "last_checkpoint"
    if not pointer.exists():
        return None
    way_out = "give --resume the checkpoint to continue"
    try:
        text = read_text(pointer).strip()
    except UsageError as error:
        raise CheckpointError(f"{error}; {way_out}") from error
    named = Path(text)
    if not named.name or "\n" in text:
        raise CheckpointError(f"{pointer}: found {text[:80]!r}, wanted the path of a checkpoint; {way_out}")
    try:
        for path in (pointer.with_name(named.name), named):
            if path.is_file():
                return path
    except OSError:  # too long a name
        pass
    raise CheckpointError(f"{pointer} names {text[:200]}, which does not exist; {way_out}")


def find_checkpoint(path: str) -> str:
    """The checkpoint that a user names: a file, a URL, or a work dir for its last one.

    Without a pointer to it that is the one of the highest epoch or iteration, or the only one, or the best.

    Raises:
        UsageError: there is none, or none of several is the last.
    """
    if "://" in path or Path(path).is_file():
        return path
    if not Path(path).is_dir():
        raise UsageError(f"{path}: no such checkpoint")
    if latest := find_latest_checkpoint(path):
        return str(latest)
    found = [file for suffix in SUFFIXES for file in list_files(path, f"*{suffix}")]
    if not found:
        raise UsageError(f"{path}: a folder without checkpoints: no such checkpoint")
    for pattern in (r"epoch_(\d+)", r"iter_(\d+)"):
        steps = {int(match[1]): file for file in found if (match := re.fullmatch(pattern, file.stem))}
        if steps:
            return str(steps[max(steps)])
    best = [file for file in found if file.stem.startswith("best_")]
    for candidates in (found, best):
        if len(candidates) == 1:
            return str(candidates[0])
    names = _shorten([file.name for file in found])
    raise UsageError(f"{path}: found {names} and no last_checkpoint, wanted the path of one of them")


# ----------------------------------------------------------------------------------------------- reading


def load_checkpoint(
    source: str | os.PathLike, map_location: Any = "cpu", *, numpy_numbers: bool = False
) -> Any:
    """Read a file of :func:`torch.save` that holds tensors and plain data only, or a ``.safetensors`` file.

    There is no fallback. Of the second comes {"state_dict", "meta"} where it has ``meta``, as ours do, else
    the weights.

    Args:
        source: a path, or a URL with its SHA-256 (see :func:`download`).
        map_location: as of :func:`torch.load`.
        numpy_numbers: take NumPy scalars, too (files that others published often log an accuracy so).

    Raises:
        CheckpointError: the file is missing, empty, truncated, no checkpoint, or holds anything else.
    """
    path = download(source) if "://" in str(source) else Path(source).expanduser()
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise CheckpointError(f"{path}: {found}, wanted a checkpoint")
    size = path.stat().st_size
    if size == 0:
        raise CheckpointError(f"{path}: the file is empty, wanted a checkpoint")
    if is_safetensors(path):
        return _load_safetensors(path, map_location)
    _check_archive(path)
    with safe_globals(_numpy_number_globals() if numpy_numbers else []):
        try:
            content = torch.load(path, map_location=map_location, weights_only=True)
        except PermissionError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
        except Exception as error:  # a damaged pickle can raise anything
            if found := _refused_classes(path, error):
                raise CheckpointError(
                    f"{path}: holds {', '.join(found)}, wanted tensors and plain data only; refused, because "
                    "loading such objects runs code from the file"
                ) from error
            raise CheckpointError(
                f"{path}: truncated, or not a file of torch.save ({size} bytes; {type(error).__name__})"
            ) from error
    if isinstance(content, Mapping) and "state_dict" in content:
        meta = content.get("meta")
        if meta is not None and not (isinstance(meta, Mapping) and all(isinstance(key, str) for key in meta)):
            raise CheckpointError(f"{path}: meta: found a {type(meta).__name__}, wanted a dict of names")
    return content


def _load_safetensors(path: Path, map_location: Any) -> Any:
    from safetensors import safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  not a dict
    except PermissionError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:  # its own errors, and PyTorch's
        raise CheckpointError(f"{path}: damaged, or not a file of safetensors ({error})") from error
    if metadata.get("sha256") not in (None, _digest(state)):
        raise CheckpointError(f"{path}: damaged: the weights do not fit their checksum; copy the file anew")
    state = {key: value.to(map_location) for key, value in state.items()} if map_location != "cpu" else state
    if "meta" not in metadata:
        return state
    try:
        meta = json.loads(metadata["meta"])
    except ValueError as error:
        raise CheckpointError(f"{path}: meta: {error}, wanted JSON") from error
    if not isinstance(meta, dict):
        raise CheckpointError(f"{path}: meta: found a {type(meta).__name__}, wanted a dict of names")
    return {"state_dict": state, "meta": meta}


def _check_archive(path: Path) -> None:
    """Compare what a zip file holds with the checksums in it, which PyTorch does not.

    Raises:
        CheckpointError: they differ, or its records are packed, which torch.save never does.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if packed := [item.filename for item in archive.infolist() if item.compress_type]:
                raise CheckpointError(f"{path}: {packed[0]} is compressed, wanted a file of torch.save")
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, RuntimeError, NotImplementedError) as error:
        if isinstance(error, CheckpointError):
            raise
        return  # older than PyTorch 1.6, or damaged: torch.load says so
    if damaged is not None:
        raise CheckpointError(f"{path}: damaged: {damaged} does not fit its checksum; copy the file anew")


def _refused_classes(path: Path, error: Exception) -> list[str]:
    try:
        found = get_unsafe_globals_in_checkpoint(path)
    except Exception:  # damaged, or of torch < 1.6: no zip file
        found = []
    return sorted(found) or re.findall(r"(?:GLOBAL|class) ([\w.]+)", str(error))[:1]


def _numpy_number_globals() -> list:
    scalar = np.float64(0).__reduce__()[0]
    dtypes = {type(np.dtype(code)) for code in "?bhilqBHILQefd"}
    return [
        (scalar, "numpy.core.multiarray.scalar"),  # as NumPy 1 writes it
        (scalar, "numpy._core.multiarray.scalar"),
        np.dtype,
        *dtypes,
    ]


def download(url: str) -> Path:
    """The file behind ``url#sha256=<64 hex digits>``, fetched once into torch.hub's checkpoint folder.

    The digest is checked at every use, so neither a server nor a damaged disk can change the weights.

    Raises:
        CheckpointError: no digest, a wrong one (the file is removed), or the file cannot be fetched.
    """
    address, fragment = urldefrag(str(url))
    match = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", fragment)
    if not match:
        raise CheckpointError(f"{url}: wanted URL#sha256=<64 hex digits>, so that the file can be verified")
    wanted = match[1].lower()
    name = Path(unquote(urlparse(address).path)).name
    path = Path(torch.hub.get_dir()) / "checkpoints" / f"{wanted[:8]}-{name}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(address, str(path))
        except (OSError, ValueError, HTTPException) as error:
            raise CheckpointError(f"{address}: cannot be downloaded ({error})") from error
    found = sha256(path)
    if found != wanted:
        path.unlink()
        raise CheckpointError(f"{address}: its sha256 is {found}, wanted {wanted}; the file was removed")
    return path


def sha256(path: str | os.PathLike) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------- state dicts


def find_state_dict(checkpoint: Any, name: str = "checkpoint") -> dict[str, Tensor]:
    """The state dict in ``checkpoint``: bare, or under ``state_dict``, ``model_state_dict`` or ``model``.

    Of BasicSR's files it is ``params_ema``, the averaged weights, or ``params`` where these are not there.
    The prefix ``module.`` (of ``DataParallel``) is taken off where every key has it.

    Raises:
        CheckpointError: none is there.
    """
    state = checkpoint
    if isinstance(checkpoint, Mapping):
        keys = ("state_dict", "model_state_dict", "model", "params_ema", "params")
        nested = (checkpoint[key] for key in keys if key in checkpoint)
        state = next(nested, checkpoint)
    values = state.values() if isinstance(state, Mapping) else []
    if not values or not all(isinstance(value, Tensor) for value in values):
        found = f"the keys {list(state)[:8]}" if isinstance(state, Mapping) else f"a {type(state).__name__}"
        raise CheckpointError(f"{name}: holds {found}, wanted a state dict, bare or under 'state_dict'")
    check_tensors(state, name)
    return strip_prefix(state, "module.")


def check_tensors(state_dict: Mapping[str, Tensor], name: str = "state dict") -> None:
    """Refuse what no weights of a network are.

    Raises:
        CheckpointError: a key that is no text; a tensor that is sparse, quantised or without data; NaN;
            variances below zero. It names the key.
    """
    for key, value in state_dict.items():
        if not isinstance(key, str):
            raise CheckpointError(f"{name}: found the key {key!r}, wanted names of parameters")
        if not isinstance(value, Tensor):
            continue
        kind = "quantised" if value.is_quantized else str(value.layout).removeprefix("torch.")
        if kind != "strided" or value.device.type == "meta":
            kind = kind if kind != "strided" else "without data"
            raise CheckpointError(f"{name}: {key}: found a tensor that is {kind}, wanted a dense one")
        if (value.is_floating_point() or value.is_complex()) and value.isnan().any():
            raise CheckpointError(f"{name}: {key}: found NaN, wanted numbers: training had failed before")
        if key.endswith("running_var") and value.is_floating_point() and (value < 0).any():
            raise CheckpointError(f"{name}: {key}: found {value.min().item():.4g}, wanted variances from 0")


def strip_prefix(state_dict: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """``state_dict`` with ``prefix`` off its keys, if all have it; else as it is."""
    if all(key.startswith(prefix) for key in state_dict):
        return {key.removeprefix(prefix): value for key, value in state_dict.items()}
    return dict(state_dict)


def take_network(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Of a run's weights those of its network, named as ``model`` names them, bare or under ``network.``.

    A run keeps the network beside its data preprocessor and its loss, whose constants come from its config.
    Those of ``model`` stay as they are.
    """
    wanted = model.state_dict()
    in_shell = any(key.startswith("network.") for key in wanted)
    beside = (
        "data_preprocessor.",
        *(name for name in LOSSES if not any(key.startswith(name) for key in wanted)),
    )
    state = {key: value for key, value in state_dict.items() if not key.startswith(beside)}
    inside = {key: value for key, value in state.items() if key.startswith("network.")} or state
    bare = strip_prefix(inside, "network.")
    if in_shell:
        kept = {key: value for key, value in wanted.items() if not key.startswith("network.")}
        kept |= {key: value for key, value in state.items() if key in kept}
        return {**kept, **{f"network.{key}": value for key, value in bare.items()}}
    kept = {key: value for key, value in wanted.items() if key.startswith("data_preprocessor.")}
    return {**kept, **(state if all(key in wanted for key in state) else bare)}


def keep_last_layers(
    model: nn.Module, state_dict: Mapping[str, Tensor], headless: bool = False
) -> tuple[dict[str, Tensor], list[str]]:
    """Weights in which the last layers for another number of classes are those of ``model``.

    Such a tensor differs in its first dimension, and in no other. One of a hidden layer does not pass: the
    next layer's differ in the second.

    Args:
        model: takes the weights.
        state_dict: of a model with other classes.
        headless: the model has no last layer, so that of the weights is dropped.

    Returns:
        weights for :func:`load_state_dict`, and the keys that are the model's own.
    """
    wanted, state, left = model.state_dict(), dict(state_dict), []
    for key, value in state_dict.items():
        own = wanted.get(key)
        if isinstance(own, Tensor) and value.shape != own.shape and value.shape[1:] == own.shape[1:]:
            state[key] = own
            left.append(key)
    if headless:
        state = {k: v for k, v in state.items() if k in wanted or not k.startswith("head.")}
    return state, left


def count_parts(state_dict: Mapping[str, Tensor], prefix: str) -> int:
    """How many parts have weights, by the name that follows ``prefix`` in the keys."""
    return len({k.removeprefix(prefix).partition(".")[0] for k in state_dict if k.startswith(prefix)})


def load_state_dict(
    model: nn.Module, state_dict: Mapping[str, Any], strict: bool = True, name: str = "state dict"
) -> tuple[list[str], list[str]]:
    """Copy ``state_dict`` into ``model``; returns the missing and the unexpected keys, as PyTorch does.

    Raises:
        CheckpointError: a shape or the kind of numbers differs, numbers are not finite (see
            :func:`check_tensors`) or, if ``strict``, a key is missing or unexpected; it says which.
    """
    check_tensors(state_dict, name)
    _check_numbers(model, state_dict, name)
    try:
        return tuple(model.load_state_dict(state_dict, strict))
    except RuntimeError as error:
        wanted = {key: value for key, value in model.state_dict().items() if isinstance(value, Tensor)}
        shapes = [
            f"{key} {tuple(state_dict[key].shape)}, wanted {tuple(value.shape)}"
            for key, value in wanted.items()
            if isinstance(state_dict.get(key), Tensor) and state_dict[key].shape != value.shape
        ]
        problems = {
            "missing": [key for key in wanted if key not in state_dict] if strict else [],
            "unexpected": [key for key in state_dict if key not in wanted] if strict else [],
            "of another shape": shapes,
        }
        listed = [f"{len(keys)} {kind}: {_shorten(keys)}" for kind, keys in problems.items() if keys]
        raise CheckpointError(
            f"{name} does not fit {type(model).__name__}: {'; '.join(listed) or str(error)}"
        ) from error


def _check_numbers(model: nn.Module, state_dict: Mapping[str, Any], name: str) -> None:
    """Floating-point, complex and other numbers do not become each other; infinity stays in constants."""
    for key, wanted in model.state_dict().items():
        found = state_dict.get(key)
        if not isinstance(found, Tensor) or not isinstance(wanted, Tensor):
            continue
        if (found.is_floating_point(), found.is_complex()) != (
            wanted.is_floating_point(),
            wanted.is_complex(),
        ):
            kinds = (str(value.dtype).removeprefix("torch.") for value in (found, wanted))
            raise CheckpointError("{}: {}: found {}, wanted {}".format(name, key, *kinds))
        if found.is_floating_point() and found.isinf().any() and not wanted.isinf().any():
            raise CheckpointError(f"{name}: {key}: found infinity, wanted finite numbers")


def rename_keys(
    state_dict: Mapping[str, Tensor], rules: Sequence[tuple[str, str | None]]
) -> dict[str, Tensor]:
    r"""A key map for ``convert_official``: rename or drop every key by the first rule that matches all of it.

    Args:
        rules: pairs of a regular expression and a replacement as of :func:`re.sub`, or None to drop the key,
            as ``[(r"sa(\d)\.(.*)", r"stages.\1.\2"), (r"fc\..*", None)]``.

    Raises:
        CheckpointError: a key that no rule matches, or two keys that get the same name.
    """
    renamed, origin, unknown = {}, {}, []
    for key, value in state_dict.items():
        matches = ((re.fullmatch(pattern, key), replacement) for pattern, replacement in rules)
        match, replacement = next((pair for pair in matches if pair[0]), (None, None))
        if match is None:
            unknown.append(key)
        if replacement is None:
            continue
        new = match.expand(replacement)
        if new in renamed:
            raise CheckpointError(f"the keys {origin[new]!r} and {key!r} both become {new!r}")
        renamed[new], origin[new] = value, key
    if unknown:
        raise CheckpointError(f"{len(unknown)} keys that no rule names: {_shorten(unknown)}")
    return renamed


def _shorten(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
