"""A network as a file that runs without this project, ONNX or torch.export, compared with the network."""

import json
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from .checkpoint import atomic_write
from .errors import UsageError, one_line

Inputs = dict[str, Tensor]
TOLERANCE = 1e-4  # of numbers, as a share of the largest where that is above 1
AUTO = torch.export.Dim.AUTO
BATCH = torch.export.Dim("B")


class Part(nn.Module):
    """What is exported of a model: one dict of tensors in, a tuple of tensors out.

    Args:
        model: in eval mode.
        run: (model, inputs) -> a tensor, or tensors nested in tuples, lists and dicts.
        names: of the outputs; by default "output", or "output_0", "output_1", ...
    """

    def __init__(
        self, model: nn.Module, run: Callable[[nn.Module, Inputs], object], names: Sequence[str] = ()
    ):
        super().__init__()
        self.model, self.run, self.names = model.eval().requires_grad_(False), run, tuple(names)

    def forward(self, inputs: Inputs) -> tuple[Tensor, ...]:
        return tuple(_flatten(self.run(self.model, inputs)))

    def name_outputs(self, count: int) -> tuple[str, ...]:
        if len(self.names) == count:
            return self.names
        return ("output",) if count == 1 else tuple(f"output_{i}" for i in range(count))


def _flatten(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [tensor for part in parts for tensor in _flatten(part)]


def trace(
    part: nn.Module, inputs: Inputs, free: Mapping[str, Mapping[int, object]]
) -> torch.export.ExportedProgram:
    """The part as a graph.

    Args:
        inputs: an example.
        free: by input, the dimensions that may change, as ``{"images": {0: AUTO, 2: AUTO, 3: AUTO}}``;
            ``AUTO`` ones stay fixed where the network's own code fixes them.

    Raises:
        UsageError: the network does what no graph can hold; one line with PyTorch's reason.
    """
    try:
        with torch.no_grad():
            return torch.export.export(part, (inputs,), dynamic_shapes={"inputs": dict(free)})
    except Exception as error:  # whatever the network's code trips over when its numbers are symbols
        name = type(getattr(part, "model", part)).__name__
        reason = one_line(error)[:200]
        raise UsageError(f"{name} cannot be exported: {type(error).__name__}: {reason}") from error


def trace_freely(
    part: Part, example: Callable[[int, int], Inputs], sizes: Sequence[int], guarded: bool
) -> tuple[torch.export.ExportedProgram, dict[str, dict[int, str]]]:
    """:func:`trace` with the batch and ``sizes`` free where the network allows it, else the batch, else none.

    A dimension is free if the program also gives what the network gives for another length of it.

    Args:
        example: inputs of a batch of so many, of sides that are so many times the usual.
        sizes: dimensions besides the first.
        guarded: the program is run with PyTorch's checks of what it took for granted, as a ``.pt2`` file is.

    Returns:
        The program, and by input the names of its free dimensions: "B" and "size_2", ...
    """
    for dimensions in ((0, *sizes), (0,), ()):
        sized = len(dimensions) > 1
        # lengths of 1, as of the last map of a small image, would be taken for constants
        inputs = example(3 if dimensions else 1, 2 if sized else 1)
        try:
            program = trace(part, inputs, {name: dict.fromkeys(dimensions, AUTO) for name in inputs})
        except UsageError:
            if not dimensions:
                raise
            continue
        free = _find_free(program, inputs)
        others = [example(2, factor) for factor in ((1, 3) if sized else (1,))] if dimensions else []
        if all(set(names) == set(dimensions) for names in free.values()) and all(
            _agrees(program, part, other, guarded) for other in others
        ):
            break
    return program, free


def _agrees(program: torch.export.ExportedProgram, part: Part, inputs: Inputs, guarded: bool) -> bool:
    try:
        found = program.module(check_guards=guarded)(inputs)
        return difference(found, part(inputs)) <= TOLERANCE
    except (AssertionError, RuntimeError):
        return False


def _find_free(program: torch.export.ExportedProgram, inputs: Inputs) -> dict[str, dict[int, str]]:
    shapes = {node.name: node.meta["val"].shape for node in program.graph.nodes if node.op == "placeholder"}
    free = {}
    for name in inputs:
        shape = shapes[f"inputs_{name}"]
        symbolic = [i for i, length in enumerate(shape) if isinstance(length, torch.SymInt)]
        free[name] = {i: "B" if i == 0 else f"size_{i}" for i in symbolic}
    return free


def write(
    program: torch.export.ExportedProgram,
    inputs: Inputs,
    out: Path,
    *,
    classes: Sequence[str] = (),
    outputs: Sequence[str] = ("logits",),
    free: Mapping[str, Mapping[int, str]],
) -> None:
    """Write the program, and the names of the classes as JSON in the file's metadata."""
    names = json.dumps(list(classes))
    with atomic_write(out) as file:
        if out.suffix == ".pt2":
            torch.export.save(program, file, extra_files={"classes.json": names})
            return
        try:
            onnx_program = torch.onnx.export(
                program,
                (inputs,),
                dynamo=True,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes={"inputs": {name: dict(names) for name, names in free.items()}},
                optimize=False,  # onnxscript takes the 1e-9 that attention adds to a divisor for 0: NaN
                verbose=False,
            )
        except Exception as error:  # an operator that ONNX does not have
            reason = one_line(error)[:200]
            raise UsageError(f"{out}: ONNX cannot hold the network: {reason}; a .pt2 file may") from error
        onnx_program.model.metadata_props["classes"] = names
        file.write(onnx_program.model_proto.SerializeToString())


def load(
    program: torch.export.ExportedProgram, out: Path, outputs: Sequence[str] = ("logits",)
) -> dict[str, Callable[[Inputs], tuple[Tensor, ...]]]:
    """What has to agree with the network, by name: functions from inputs to outputs."""
    if out.suffix == ".pt2":
        return {"reloaded program": torch.export.load(out).module()}
    runs = {"exported program": program.module(check_guards=False)}
    if find_spec("onnxruntime"):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors: it warns of constants that it cannot fold
        session = onnxruntime.InferenceSession(str(out), options, providers=["CPUExecutionProvider"])
        wanted = [value.name for value in session.get_inputs()]
        runs["onnxruntime"] = lambda inputs: tuple(
            torch.from_numpy(found)
            for found in session.run(list(outputs), {name: inputs[name].numpy() for name in wanted})
        )
    else:
        print("onnxruntime is not installed: the file itself is not checked")
    return runs


def difference(found: Sequence[Tensor] | Tensor, wanted: Sequence[Tensor] | Tensor) -> float:
    """The largest difference of numbers, as a share of the largest one wanted where that is above 1."""
    pairs = zip(_flatten(found), _flatten(wanted), strict=True)
    return torch.stack([(a - b).abs().max() / b.abs().max().clamp(min=1) for a, b in pairs]).max().item()
