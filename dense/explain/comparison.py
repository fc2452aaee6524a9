"""Methods side by side in the pointing game, and what a map must beat."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pointsuite.engine.checkpoint import atomic_write, find_checkpoint, sha256
from pointsuite.engine.files import read_text

from .explain import METHODS, Subject, explain, find_method, register_method
from .metrics import PointingGame, class_sensitivity

Game = tuple[str, str | None]  # a method and a layer


@register_method("centre", own_layer=True)
def centre(subject: Subject, layer: str | None) -> Tensor:
    """The nearer to the centre of the image the more: what photographers do, and a map must beat."""
    batch, _, height, width = subject.image.shape
    y, x = (torch.linspace(-1, 1, side, device=subject.image.device) for side in (height, width))
    return -(y[:, None].square() + x.square()).expand(batch, 1, -1, -1)


@register_method("random", own_layer=True)
def random(subject: Subject, layer: str | None, *, seed: int = 0) -> Tensor:
    """Uniform noise, the same for each batch of a seed: what a map must beat."""
    batch, _, height, width = subject.image.shape
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 1, height, width, generator=generator).to(subject.image.device)


def all_games(layers: Sequence[str] = (), methods: Sequence[str] | None = None) -> list[Game]:
    """Every method, or those named, at each of the layers; those meant for one of their own there only.

    Raises:
        ValueError: a method does not exist.
    """
    found: list[Game] = []
    for name in methods or METHODS:
        found += (
            [(name, None)]
            if find_method(name).own_layer or not layers
            else [(name, layer) for layer in layers]
        )
    return found


def play_pointing_game(
    model: nn.Module,
    dataset: Sequence[Mapping[str, Any]],
    games: Iterable[Game],
    *,
    batch_size: int = 50,
    tolerance: float = 0.0,
    sensitivity: bool = False,
) -> dict[Game, dict[str, float]]:
    """How often each method points at the object of the class asked about.

    Args:
        model: as MMEngine trains it, with a ``data_preprocessor``.
        dataset: of ``inputs`` and ``data_samples`` with ``gt_label`` and ``gt_boxes``, as
            :class:`~dense.explain.ClutterScenes` with :class:`~dense.explain.PackScene`.
        games: methods and their layers.
        batch_size: images at once.
        tolerance: see :class:`~dense.explain.PointingGame`.
        sensitivity: also the class sensitivity, the mean over images where it is finite; see
            :func:`~dense.explain.metrics.class_sensitivity`.

    Returns:
        for each game ``accuracy`` in percent and, if asked, ``sensitivity``.
    """
    games = list(games)
    metrics = {game: PointingGame(tolerance) for game in games}
    alike: dict[Game, list[np.ndarray]] = {game: [] for game in games}
    for start in range(0, len(dataset), batch_size):
        items = [dataset[i] for i in range(start, min(start + batch_size, len(dataset)))]
        samples = [item["data_samples"].to_dict() for item in items]
        image = model.data_preprocessor({"inputs": [item["inputs"] for item in items]})["inputs"]
        target = [int(sample["gt_label"]) for sample in samples]
        for method, layer in games:
            how = {"seed": start} if method == "random" else {}
            maps = explain(model, image, target, method, layer, **how)
            own = [{**sample, "pred_map": x[0].cpu()} for sample, x in zip(samples, maps, strict=True)]
            metrics[method, layer].process(None, own)
            if sensitivity:
                alike[method, layer].append(
                    class_sensitivity(model, image, method, layer, **how).cpu().numpy()
                )
    found = {}
    for game, metric in metrics.items():
        found[game] = {"accuracy": metric.compute_metrics(metric.results)["accuracy"]}
        if sensitivity:
            values = np.concatenate(alike[game])
            finite = values[np.isfinite(values)]
            found[game]["sensitivity"] = float(finite.mean()) if len(finite) else float("nan")
    return found


def play_pointing_games(
    runner: Any,
    dataset: Sequence[Mapping[str, Any]],
    checkpoints: Sequence[str],
    games: Sequence[Game],
    out: str | os.PathLike,
    **how: Any,
) -> dict[str, dict[Game, dict[str, float]]]:
    """:func:`play_pointing_game` with the weights of several runs; what is in ``out`` is not played again.

    Args:
        runner: MMEngine's, whose model takes the weights.
        dataset, games, **how: of that function.
        checkpoints: files, or work dirs for their last ones.
        out: JSON file, to which each game is added at once.

    Returns:
        what it gives, by checkpoint.

    Raises:
        OSError: ``out`` is not such a file.
    """
    out = Path(out)
    known = read_games(out)
    found: dict[str, dict[Game, dict[str, float]]] = {}
    settings = json.dumps({"config": runner.cfg.filename, "images": len(dataset), **how}, sort_keys=True)
    for path in map(find_checkpoint, checkpoints):
        own = known.setdefault(f"{sha256(path)} {settings}", {})
        loaded = False
        for method, layer in games:
            key = method if layer is None else f"{method} {layer}"
            if key not in own:
                if not loaded:
                    runner.load_checkpoint(path)
                    loaded = True
                own[key] = play_pointing_game(runner.model, dataset, [(method, layer)], **how)[method, layer]
                out.parent.mkdir(parents=True, exist_ok=True)
                with atomic_write(out) as file:
                    file.write(json.dumps(known, indent=1).encode())
                print(f"{path}: {key} {own[key]}", flush=True)
            found.setdefault(path, {})[method, layer] = own[key]
    return found


def read_games(path: Path) -> dict[str, dict[str, dict[str, float]]]:
    """What :func:`play_pointing_games` has written; nothing where there is no file."""
    if not path.exists():
        return {}
    try:
        found = json.loads(read_text(path))
    except ValueError as error:
        raise OSError(f"{path}: no JSON ({error}), wanted a file of this command") from error
    if not isinstance(found, dict) or not all(isinstance(own, dict) for own in found.values()):
        raise OSError(f"{path}: found no table of games, wanted a file of this command")
    return found


def format_games(results: Mapping[str, Mapping[Game, Mapping[str, float]]]) -> str:
    """A table: a line for each game with mean and standard deviation over networks; the best first.

    Args:
        results: of :func:`play_pointing_game`, by network.
    """
    games = list(dict.fromkeys(game for own in results.values() for game in own))
    rows = []
    for game in games:
        values = {
            key: np.array([own[game][key] for own in results.values() if game in own and key in own[game]])
            for key in ("accuracy", "sensitivity")
        }
        cells = [f"{v.mean():.{n}f} ± {v.std(ddof=len(v) > 1):.{n}f}" if len(v) else "" for n, v in
                 zip((1, 3), values.values(), strict=True)]  # fmt: skip
        rows.append((values["accuracy"].mean(), game[0], game[1] or "its own", *cells))
    rows.sort(key=lambda row: -row[0])
    lines = ["| method | layer | pointing game, % | class sensitivity |", "|---|---|---|---|"]
    lines += [f"| {method} | {layer} | {accuracy} | {alike} |" for _, method, layer, accuracy, alike in rows]
    return "\n".join(lines)
