"""What of a run is handed on: weights alone, named by their hash, and a card that says what they are."""

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from json import dumps
from pathlib import Path
from typing import Any

from mmengine.config import Config

from .checkpoint import (
    CheckpointError,
    atomic_write,
    find_state_dict,
    load_checkpoint,
    save_checkpoint,
    sha256,
)
from .command import CONFIGS
from .config import read_file
from .errors import UsageError
from .files import list_files
from .pretrained import DIGITS, Card, find_cards

KEPT = ("model", "pipeline", "dataset_meta", "seed", "epoch", "iter")  # of what a checkpoint says of itself
AVERAGED = ("state_dict_ema", "model_ema")  # where others keep averaged weights; MMEngine has them in place
OF_A_PROCESS = {"work_dir", "launcher", "load_from", "resume", "new_schedule", "randomness", "log_level"}
LIBRARIES = ("torch", "onedl-mmengine", "pointsuite")


def write_weights(checkpoint: str | os.PathLike, name: str, folder: str | os.PathLike) -> tuple[Path, dict]:
    """Write the weights of a checkpoint, without optimiser and state of the run, as NAME-HASH.safetensors.

    Averaged weights are taken where there are any. The same weights give the same bytes.

    Args:
        name: of letters, digits, ``_`` and ``-``.
        folder: for the file; it is made where it is missing.

    Returns:
        The file, and what the checkpoint says of itself, as it is written: model, test pipeline, names, seed.

    Raises:
        CheckpointError: the checkpoint cannot be read, or does not say what it is of.
        UsageError: a name that is none, or whose weights the folder has already, with other contents.
    """
    if not re.fullmatch(r"[\w-]+", name):
        raise UsageError(f"name: found {name!r}, wanted letters, digits, _ and -")
    content = load_checkpoint(checkpoint)
    said = content.get("meta") if isinstance(content, Mapping) else None
    if not isinstance(said, Mapping) or not isinstance(said.get("model"), Mapping):
        raise CheckpointError(
            f"{checkpoint}: does not say what it is of, wanted a checkpoint of a training run"
        )
    meta = {key: said[key] for key in KEPT if said.get(key) is not None}
    averaged = next((content[key] for key in AVERAGED if key in content), content)
    state = find_state_dict(averaged, str(checkpoint))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".publish") as place:
        written = Path(place) / "weights.safetensors"
        save_checkpoint({"state_dict": state, "meta": meta}, written)
        path = folder / f"{name}-{sha256(written)[:DIGITS]}.safetensors"
        others = [other.name for other in list_files(folder, f"{name}-{'[0-9a-f]' * DIGITS}.safetensors")]
        if others and others != [path.name]:
            raise UsageError(f"{folder}: has {others[0]} already; remove it and its card first")
        os.replace(written, path)
    return path, meta


def write_card(card: Card) -> Path:
    """Write a card beside its weights; raises OSError."""
    path = card.path.with_suffix(".json")
    with atomic_write(path) as file:
        file.write((dumps(card.to_dict(), indent=2, ensure_ascii=False) + "\n").encode())
    find_cards.cache_clear()
    return path


def library_versions() -> dict[str, str]:
    """Of what computes a card's results."""
    return {name: version(name) for name in LIBRARIES}


def find_origin(cfg: Config, file: str | os.PathLike) -> tuple[str, list[str]]:
    """Which config of this project a run's is, and what was said over it.

    Args:
        cfg: of the run.
        file: its file, which a run calls as the config that it was read from.

    Returns:
        Its path below ``configs/``, or the file's name where it is none of them; and ``KEY=VALUE`` of what
        differs, in which paths of the run's machine are ``PATH``.
    """
    found = sorted(CONFIGS.glob(f"*/{Path(file).name}"))
    if len(found) != 1:
        return Path(file).name, []
    own, plain = cfg.to_dict(), read_file(found[0])
    # names at the top first, as max_epochs: what was made of them differs with them
    top = {
        key: own[key]
        for key, value in plain.items()
        if key not in OF_A_PROCESS
        and isinstance(value, str | int | float)
        and _plain(own.get(key, value)) != _plain(value)
    }
    ours, theirs = (dict(_leaves(each)) for each in (own, read_file(found[0], top).to_dict()))
    if ours.keys() != theirs.keys():
        return Path(file).name, []
    more = {key: value for key, value in ours.items() if _plain(value) != _plain(theirs[key])}
    return (
        found[0].relative_to(CONFIGS).as_posix(),
        [f"{key}={_spell(value)}" for key, value in {**top, **more}.items()],
    )


def describe_training(cfg: Config, file: str | os.PathLike, meta: Mapping[str, Any]) -> tuple[str, str]:
    """A run's config (see :func:`find_origin`), and the command that trains the weights.

    Args:
        cfg, file: of the run.
        meta: what its checkpoint says of itself; of one before the last the command says when it was saved.
    """
    origin, options = find_origin(cfg, file)
    words = ["python tools/train.py", f"configs/{origin}" if "/" in origin else origin]
    if meta.get("seed") is not None:
        words += ["--seed", str(meta["seed"])]
    if options:
        words += ["--cfg-options", *options]
    last = cfg.get("train_cfg", {}).get("max_epochs")
    if last is not None and meta.get("epoch") not in (None, last):
        words.append(f" # as it is after epoch {meta['epoch']} of {last}")
    return origin, " ".join(words)


def _leaves(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if not path and key in OF_A_PROCESS:
            continue
        name = f"{path}.{key}" if path else str(key)
        if isinstance(item, Mapping) and item:
            yield from _leaves(item, name)
        else:
            yield name, item


def _plain(value: Any) -> Any:
    """A value without what differs from clone to clone, where configs lie; lists for tuples."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return re.sub(r"^.*/configs/", "", value) if isinstance(value, str) else value


def _spell(value: Any) -> str:
    """As it is said in a command."""
    if isinstance(value, str):
        return "PATH" if os.path.isabs(value) else value
    return str(list(value) if isinstance(value, tuple) else value).replace(" ", "")


def sample_indices(size: int, count: int) -> list[int]:
    """So many numbers, evenly spaced, below ``size``; all, where these are fewer."""
    count = min(size, count)
    return [i * size // count for i in range(count)]
