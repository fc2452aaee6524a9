"""Make a parity pack of a torch model: the names and shapes of its weights, and samples of what comes out.

    inputs = {"x": {"kind": "normal", "shape": [1, 3, 64, 64], "seed": 0}}
    make_pack("tiny", model, inputs, source="owner/name@COMMIT", out="tests/parity/packs/<system>")

The model is that of the published code, with its own names of weights; a project's own would prove nothing.
"""

import json
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pointsuite.engine.checkpoint import atomic_write

from . import packs

FEW = 32  # samples of taps and gradients


def fill_model(model: nn.Module) -> list[list]:
    """Fill the learned tensors by their names, in place; the rows `[key, shape, kind]` of the state dict.

    Of a tensor under several names only the first is learned; the others are "constant", as are integers and
    buffers but the statistics of batch norms.

    Raises:
        ValueError: a complex parameter, which no pack can hold: give its real and imaginary part.
    """
    learned, rows = {name for name, _ in model.named_parameters()}, []
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if tensor.is_complex() and key in learned:
                raise ValueError(f"parameter {key!r} is complex, wanted its real and imaginary part")
            filled = tensor.is_floating_point() and (key in learned or key.endswith(packs.STATISTICS))
            if filled:
                tensor.copy_(torch.from_numpy(packs.fill(key, tuple(tensor.shape))))
            rows.append([key, list(tensor.shape), "learned" if filled else "constant"])
    return rows


def make_pack(
    name: str,
    model: nn.Module,
    inputs: Mapping[str, Mapping[str, Any]],
    call: Callable[[nn.Module, dict[str, Tensor]], Mapping[str, Tensor]] | None = None,
    *,
    taps: Mapping[str, str] | None = None,
    grad: str | None = None,
    source: str = "",
    build: Mapping[str, Any] | str | None = None,
    notes: str = "",
    tolerance: float | None = None,
    out: str | PathLike | None = None,
    samples: int = 64,
) -> dict[str, Any]:
    """A pack of what a model computes in evaluation mode, in float32; its weights are overwritten.

    Args:
        inputs: by name, as :func:`packs.make_input` takes them.
        call: from the model and its inputs by name to outputs by name; by default "y" of all inputs in order.
        taps: paths of submodules, by the name of the tap; their first tensor of the first call is kept.
        grad: the input by which the first output's gradient is taken.
        source: owner/name@commit of the code.
        build: arguments of the model, in its own words.
        tolerance: of the errors, where the usual one does not suit; say why in the notes.
        out: the folder to write it to, as NAME.json.
        samples: values kept of each output.

    Raises:
        ValueError: an unknown submodule or input, an output that is 0 everywhere, or not finite.
    """
    rows = fill_model(model.eval())
    tensors = {key: torch.from_numpy(packs.make_input(spec)) for key, spec in inputs.items()}
    if grad is not None:
        if grad not in tensors:
            raise ValueError(f"grad must be one of the inputs {sorted(tensors)}, found {grad!r}")
        tensors[grad].requires_grad_()
    tapped: dict[str, Tensor] = {}
    handles = [_keep(model, path, f"tap.{tap}", tapped) for tap, path in (taps or {}).items()]
    with torch.enable_grad():
        outputs = call(model, tensors) if call else {"y": model(*tensors.values())}
    for handle in handles:
        handle.remove()
    facts = {key: packs.summarise(_array(key, y), samples) for key, y in outputs.items()}
    facts |= {key: packs.summarise(_array(key, y), FEW) for key, y in tapped.items()}
    if grad is not None:
        first, y = next(iter(outputs.items()))
        (found,) = torch.autograd.grad((y * torch.from_numpy(packs.probe(y.shape))).sum(), tensors[grad])
        key = f"grad.{grad}.of.{first}"
        facts[key] = packs.summarise(_array(key, found), FEW)
    pack = {
        "name": name,
        "source": source,
        "build": {} if build is None else build,
        "notes": notes,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "inputs": {key: dict(spec) for key, spec in inputs.items()},
        "state_dict": rows,
        "outputs": facts,
    }
    if tolerance is not None:
        pack["tolerance"] = tolerance
    if out is not None:
        with atomic_write(Path(out) / f"{name}.json") as file:
            file.write(json.dumps(pack, separators=(",", ":")).encode())
    return pack


def _keep(model: nn.Module, path: str, name: str, tapped: dict[str, Tensor]):
    modules = dict(model.named_modules())
    if path not in modules:
        raise ValueError(f"{type(model).__name__} has no submodule {path!r} for {name!r}")

    def keep(module: nn.Module, inputs: tuple, y: Any) -> None:
        tensor = _first_tensor(y)
        if tensor is not None and name not in tapped:
            tapped[name] = tensor.clone()  # for layers after it may work in place

    return modules[path].register_forward_hook(keep)


def _first_tensor(y: Any) -> Tensor | None:
    if isinstance(y, Tensor):
        return y
    parts = y.values() if isinstance(y, Mapping) else y if isinstance(y, (list, tuple)) else ()
    return next((found for part in parts if (found := _first_tensor(part)) is not None), None)


def _array(name: str, y: Tensor) -> np.ndarray:
    array = y.detach().cpu().numpy()
    if not np.isfinite(array).all() or not array.any():
        raise ValueError(f"output {name!r} must be finite and not 0 everywhere, else it proves nothing")
    return array
