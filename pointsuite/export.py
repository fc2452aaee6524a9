"""The part of a network behind its geometry as a file that runs without this project: ONNX, torch.export."""

import json
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from mmengine.config import Config
from torch import Tensor, nn
from torch.utils.data import Dataset

from .engine.checkpoint import atomic_write
from .engine.errors import UsageError
from .engine.zoo import load_pretrained
from .registry import MODELS

BATCHES = (2, 1, 3)  # the first is traced


class NetworkPart(nn.Module):
    """`forward_geometry` of a network with one flat dict of tensors as its argument."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    @torch.no_grad()
    def split(self, points: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The argument of `forward` for clouds (B, N, 6)."""
        inputs = {}
        for i, (features, idx) in enumerate(self.network.geometry(points)):
            inputs |= {f"features_{i}": features, f"idx_{i}": idx}
        if getattr(self.network, "num_categories", 1) > 1:
            inputs["category"] = labels
        return inputs

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        count = len(inputs) // 2
        geometry = [(inputs[f"features_{i}"], inputs[f"idx_{i}"]) for i in range(count)]
        if "category" in inputs:
            return self.network.forward_geometry(geometry, inputs["category"])
        return self.network.forward_geometry(geometry)


def build_part(cfg: Config, checkpoint: str) -> NetworkPart:
    """The trained network of a config, in eval mode.

    Raises:
        UsageError: it has no geometry apart.
        CheckpointError: the weights cannot be read, or do not fit.
    """
    network = getattr(MODELS.build(cfg.model), "network", None)
    if not hasattr(network, "forward_geometry"):
        raise UsageError(
            f"{type(network).__name__} has no forward_geometry, wanted a network that has its geometry apart"
        )
    load_pretrained(network, checkpoint)
    return NetworkPart(network.eval().requires_grad_(False))


def read_batches(part: NetworkPart, dataset: Dataset) -> Iterator[dict[str, Tensor]]:
    """Inputs of the part for batches of different sizes, clouds spread over the dataset."""
    rows = iter(torch.linspace(0, len(dataset) - 1, sum(BATCHES)).round().long().tolist())
    for size in BATCHES:
        samples = [dataset[next(rows)] for _ in range(size)]
        labels = torch.stack([sample["data_samples"].gt_label for sample in samples])
        yield part.split(torch.stack([sample["inputs"] for sample in samples]), labels)


def trace(part: NetworkPart, inputs: dict[str, Tensor]) -> torch.export.ExportedProgram:
    """The part as a graph, for any number of clouds."""
    free = dict.fromkeys(inputs, {0: torch.export.Dim("B")})
    return torch.export.export(part, (inputs,), dynamic_shapes={"inputs": free})


def write(
    program: torch.export.ExportedProgram, inputs: dict[str, Tensor], classes: Sequence[str], out: Path
) -> None:
    """Write the program, and the names of the classes as JSON in the file's metadata."""
    names = json.dumps(list(classes))
    with atomic_write(out) as file:
        if out.suffix == ".pt2":
            torch.export.save(program, file, extra_files={"classes.json": names})
            return
        onnx_program = torch.onnx.export(
            program,
            (inputs,),
            dynamo=True,
            input_names=list(inputs),
            output_names=["logits"],
            dynamic_shapes={"inputs": dict.fromkeys(inputs, {0: "B"})},
            optimize=False,  # onnxscript takes the 1e-9 that attention adds to a divisor for 0: 0 / 0 is NaN
            verbose=False,
        )
        onnx_program.model.metadata_props["classes"] = names
        file.write(onnx_program.model_proto.SerializeToString())


def load(program: torch.export.ExportedProgram, out: Path) -> dict[str, Callable]:
    """What has to agree with the network, by name: functions from inputs to logits."""
    if out.suffix == ".pt2":
        return {"reloaded program": torch.export.load(out).module()}
    runs = {"exported program": program.module()}
    if find_spec("onnxruntime"):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors: it warns of constants that it cannot fold
        session = onnxruntime.InferenceSession(str(out), options, providers=["CPUExecutionProvider"])
        wanted = [value.name for value in session.get_inputs()]
        runs["onnxruntime"] = lambda inputs: torch.from_numpy(
            session.run(["logits"], {name: inputs[name].numpy() for name in wanted})[0]
        )
    else:
        print("onnxruntime is not installed: the file itself is not checked")
    return runs
