"""The part of a network of clouds behind its geometry, or all of it, to be exported."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from .engine.export import Inputs, Part

BATCHES = (2, 1, 3)  # the first is traced


class NetworkPart(Part):
    """`forward_geometry` of a network, if it has its geometry apart, or `forward`."""

    def __init__(self, network: nn.Module):
        run = run_geometry if hasattr(network, "forward_geometry") else run_points
        super().__init__(network, run, ("logits",))

    @torch.no_grad()
    def split(self, points: Tensor, labels: Tensor) -> Inputs:
        """The argument of `forward` for clouds (B, N, 6)."""
        inputs = {}
        if self.run is run_points:
            inputs["points"] = points
        else:
            for i, (features, idx) in enumerate(self.model.geometry(points)):
                inputs |= {f"features_{i}": features, f"idx_{i}": idx}
        if getattr(self.model, "num_categories", 1) > 1:
            inputs["category"] = labels
        return inputs


def run_geometry(network: nn.Module, inputs: Inputs) -> Tensor:
    count = len(inputs) // 2
    geometry = [(inputs[f"features_{i}"], inputs[f"idx_{i}"]) for i in range(count)]
    category = [inputs["category"]] if "category" in inputs else []
    return network.forward_geometry(geometry, *category)


def run_points(network: nn.Module, inputs: Inputs) -> Tensor:
    return network(*inputs.values())


def read_batches(part: NetworkPart, dataset: Dataset) -> Iterator[Inputs]:
    """Inputs of the part for batches of different sizes, clouds spread over the dataset."""
    rows = iter(torch.linspace(0, len(dataset) - 1, sum(BATCHES)).round().long().tolist())
    for size in BATCHES:
        samples = [dataset[next(rows)] for _ in range(size)]
        labels = torch.stack([sample["data_samples"].gt_label for sample in samples])
        yield part.split(torch.stack([sample["inputs"] for sample in samples]), labels)
