"""Parity packs: does a re-implementation compute what the published model computes?

A pack is one JSON file of facts about a published model: every key and shape of its
state dict, how the weights and inputs were filled, and samples of what came out.
The weights themselves are not in it: `fill` makes them from the key's name, so both
sides get the same numbers without a download.

    weights = {k: torch.from_numpy(v) for k, v in fill_state_dict(pack).items()}
    model.load_state_dict(convert(weights))          # the project's own key conversion
    inputs = make_inputs(pack)
    report = compare(pack, {"logits": model(torch.from_numpy(inputs["x"])).numpy()})

Only numpy is needed. `numpy.random.RandomState` is used because its streams are frozen.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

PROBE_SEED = 99
STATISTICS = ("running_mean", "running_var")
FIELDS = ("build", "inputs", "state_dict", "outputs")


def fill(key: str, shape: Sequence[int]) -> np.ndarray:
    """Return the float32 array that stands for the learned tensor `key`."""
    noise = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape)
    if key.endswith("running_var"):
        value = 0.5 + 0.5 * np.abs(noise)
    elif key.endswith("running_mean"):
        value = 0.1 * noise
    elif len(shape) >= 2:
        fan_in = int(np.prod(shape[1:]))
        value = noise / np.sqrt(max(fan_in, 1))
    elif key.rsplit(".", 1)[-1] == "bias":
        value = 0.1 * noise
    else:  # scales of norms and layers, temperatures, scalars
        value = 1.0 + 0.1 * noise
    return np.asarray(value, dtype=np.float32)


def fill_state_dict(pack: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return {official key: array} for every learned tensor of the pack.

    Keys of kind "constant" (index tables, masks, step counters) are left out:
    the model computes them itself.
    """
    return {key: fill(key, tuple(shape)) for key, shape, kind in pack["state_dict"] if kind == "learned"}


def make_inputs(pack: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return {name: array} as the pack describes them (see `make_input`)."""
    return {name: make_input(spec) for name, spec in pack["inputs"].items()}


def make_input(spec: Mapping[str, Any]) -> np.ndarray:
    """Make one input array.

    kinds: "normal" N(0,1) float32; "uniform" [0,1) float32; "integers" in [low, high);
    "surface" (B, N, 6) points on unit spheres stretched by 3 fixed factors, with unit normals;
    "value" the literal list in the spec.
    """
    shape, kind = tuple(spec["shape"]), spec["kind"]
    if kind == "value":
        return np.asarray(spec["value"], dtype=spec.get("dtype", "float32")).reshape(shape)
    rng = np.random.RandomState(spec["seed"])
    if kind == "normal":
        return rng.standard_normal(shape).astype(np.float32)
    if kind == "uniform":
        return rng.random_sample(shape).astype(np.float32)
    if kind == "integers":
        return rng.randint(spec["low"], spec["high"], size=shape).astype(np.int64)
    if kind == "surface":
        axes = np.array([1.0, 0.7, 0.45])
        unit = rng.standard_normal(shape[:2] + (3,))
        unit /= np.linalg.norm(unit, axis=-1, keepdims=True)
        normal = unit / axes
        normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
        return np.concatenate([unit * axes, normal], axis=-1).astype(np.float32)
    raise ValueError(f"unknown input kind {kind!r}")


def probe(shape: Sequence[int]) -> np.ndarray:
    """The float32 weights of the sum of an output whose gradient a pack pins."""
    return np.random.RandomState(PROBE_SEED).standard_normal(tuple(shape)).astype(np.float32)


def summarise(array: np.ndarray, samples: int = 64) -> dict[str, Any]:
    """Return the facts kept of one output: shape, mean, norm and evenly spread values."""
    array = np.asarray(array)
    flat = array.reshape(-1).astype(np.float64)
    index = np.unique(np.linspace(0, flat.size - 1, num=min(samples, flat.size)).astype(np.int64))
    return {
        "shape": list(array.shape),
        "mean": float(flat.mean()),
        "rms": float(np.sqrt((flat**2).mean())),
        "index": index.tolist(),
        "value": [float(f"{v:.7g}") for v in flat[index]],
    }


def compare(pack: Mapping[str, Any], outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Compare arrays with the pack's outputs, name by name.

    Returns {name: error}, where error = max |difference| over the samples, divided by the
    output's rms. A name that the pack lacks, or a shape that differs, raises ValueError.
    """
    report = {}
    for name, array in outputs.items():
        if name not in pack["outputs"]:
            raise ValueError(f"the pack has no output {name!r}; it has {sorted(pack['outputs'])}")
        fact, array = pack["outputs"][name], np.asarray(array)
        if list(array.shape) != fact["shape"]:
            raise ValueError(f"{name}: shape {list(array.shape)}, the pack has {fact['shape']}")
        flat = array.reshape(-1).astype(np.float64)
        difference = np.abs(flat[fact["index"]] - np.asarray(fact["value"]))
        report[name] = float(difference.max() / max(fact["rms"], 1e-12))
        report[name] = max(
            report[name], abs(float(np.sqrt((flat**2).mean())) - fact["rms"]) / max(fact["rms"], 1e-12)
        )
    return report


def load(path: str | PathLike) -> dict[str, Any]:
    """Read a pack from its JSON file.

    Raises:
        ValueError: it cannot be read, or lacks a field.
    """
    try:
        pack = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"no pack can be read: {error}") from error
    absent = [name for name in FIELDS if not isinstance(pack, dict) or name not in pack]
    if absent:
        raise ValueError(f"a pack must have {', '.join(FIELDS)}, found none of {', '.join(absent)}")
    return pack
