"""Export the network part of a trained model, to run it without this project.

python tools/export.py CONFIG CHECKPOINT --out network.onnx
python tools/export.py CONFIG CHECKPOINT --out network.pt2

The inputs are the geometry of the clouds, features_0 float32 (B, S, K, 14), idx_0 int64 (B, S, K) and so on
for every layer, and for a part segmenter of several categories also category int64 (B,); B is free. Geometry
stays outside: it is what `network.geometry(points)` computes. ``.pt2`` is a file of torch.export; its module
takes one dict of the inputs. ``.onnx`` needs the packages onnx and onnxscript. What was written is compared
with the network on clouds of the test data, in the case of ONNX where onnxruntime is installed.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from pointsuite.datasets import DatasetError
from pointsuite.engine import command
from pointsuite.engine.checkpoint import atomic_write
from pointsuite.engine.registry import DATASETS, MODELS
from pointsuite.engine.zoo import load_pretrained

TOLERANCE = 1e-4
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


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.build_parser("Export the network part of a trained model.")
    parser.add_argument(
        "checkpoint", help="a path, a work dir (its last checkpoint), or a URL with its digest (#sha256=...)"
    )
    parser.add_argument("--out", required=True, type=Path, help="file to write: .onnx or .pt2")
    args = parser.parse_args(argv)
    kind = args.out.suffix
    if kind not in (".onnx", ".pt2"):
        raise command.UsageError(f"--out {args.out}: found the suffix {kind!r}, wanted .onnx or .pt2")
    if missing := [name for name in ("onnx", "onnxscript") if kind == ".onnx" and not find_spec(name)]:
        raise command.UsageError(f"--out {args.out} needs {' and '.join(missing)}: pip install .[export]")
    cfg = command.load_config(args)
    if cfg.get("test_dataloader") is None:
        raise command.UsageError(f"{args.config}: has no 'test_dataloader', wanted a config with a test")

    part = build(cfg, command.find_checkpoint(args.checkpoint))
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    batches = list(read_batches(part, dataset))
    program = trace(part, batches[0])
    write(program, batches[0], dataset.metainfo["classes"], args.out)
    names = ", ".join(f"{name} {tuple(value.shape[1:])}" for name, value in batches[0].items())
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB, inputs (B, ...): {names}")
    for name, run in load(program, args.out).items():
        difference = (
            torch.stack([(run(inputs) - part(inputs)).abs().max() for inputs in batches]).max().item()
        )
        print(f"{name}: differs by at most {difference:.1e} on {sum(BATCHES)} clouds in batches of {BATCHES}")
        if not difference <= TOLERANCE:  # NaN, too
            args.out.unlink()
            raise command.UsageError(
                f"{args.out}: {name} differs from the network by {difference:.1e}, wanted at most "
                f"{TOLERANCE}; the file was removed"
            )


def build(cfg, checkpoint: str) -> NetworkPart:
    """The trained network of a config, in eval mode."""
    network = getattr(MODELS.build(cfg.model), "network", None)
    if not hasattr(network, "forward_geometry"):
        raise command.UsageError(
            f"{type(network).__name__} has no forward_geometry, wanted a network that has its geometry apart"
        )
    load_pretrained(network, checkpoint)
    return NetworkPart(network.eval().requires_grad_(False))


def read_batches(part: NetworkPart, dataset) -> Iterator[dict[str, Tensor]]:
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
):
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


if __name__ == "__main__":
    command.run(main, DatasetError)
