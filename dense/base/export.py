"""The network of a task of images, to be exported, and inputs that it takes."""

from collections.abc import Callable, Sequence

from mmengine.config import Config
from torch import nn

from pointsuite.engine.export import Inputs, Part
from pointsuite.engine.profiling import example_inputs

SMALL, USUAL = 64, 224  # sides of images where a config says nothing: of restoration, of all else


def make_part(model: nn.Module) -> Part:
    """What a model computes of images that are normalised, or clips or pairs of them, before any decision."""
    raw = hasattr(model, "raw_outputs")
    return Part(model, run_task if raw else run_library, getattr(model, "output_names", ()))


def run_task(model: nn.Module, inputs: Inputs) -> object:
    return model.raw_outputs(inputs["images"])


def run_library(model: nn.Module, inputs: Inputs) -> object:
    """MMSegmentation's logits on the head's grid, or MMDetection's maps of scores and boxes."""
    return model(inputs["images"], mode="tensor")


def find_size(cfg: Config) -> tuple[int, int]:
    """Height and width of the images of a config's test."""
    size = cfg.get("crop_size")
    data = (cfg.get("test_dataloader") or {}).get("dataset") or {}
    if size is None and isinstance(data.get("size"), int | list | tuple):  # of clips
        size = data["size"]
    for step in data.get("pipeline") or ():
        if size is None and step.get("type", "").endswith(("CenterCrop", "ResizePair")):
            size = step.get("crop_size", step.get("size"))
    if size is None:
        size = SMALL if cfg.get("default_scope") == "dense" else USUAL
    return (size, size) if isinstance(size, int) else (size[0], size[-1])


def make_examples(model: nn.Module, size: Sequence[int]) -> Callable[[int, int], Inputs]:
    """Random inputs of a batch of so many, of images of so many times that height and width."""

    def example(batch: int, factor: int) -> Inputs:
        return {"images": example_inputs(model, batch, tuple(factor * side for side in size))[0]}

    return example
