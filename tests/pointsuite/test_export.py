"""The network part of a model, traced."""

from pathlib import Path

import torch

from pointsuite.datasets import PointCloudDataset
from pointsuite.engine.export import BATCH, trace
from pointsuite.export import NetworkPart, read_batches
from pointsuite.registry import MODELS
from tests.tools.tiny import CONFIG


def test_categories_of_a_part_segmenter(tmp_path):
    """A second network with geometry apart, whose logits belong to points and need the category."""
    network = MODELS.build(
        {
            "type": "RISurConvPartSegmenter",
            "num_parts": 4,
            "num_categories": 2,
            "centres": (64, 32),
            "neighbours": (8, 8),
            "channels": (8, 16),
            "up_neighbours": (8, 8),
            "up_channels": (16, 8),
            "mlp_channels": ((8,), ()),
            "embed_channels": 8,
        }
    ).eval()
    file = str(Path(CONFIG).parents[2] / "data/kicad/kicad.h5")
    pipeline = [{"type": "SamplePoints", "num": 100, "method": "first"}, {"type": "PackPoints"}]
    dataset = PointCloudDataset(file, "test", pipeline, classes=["dip", "so"], test_mode=True)
    part = NetworkPart(network)
    first, *others = read_batches(part, dataset)
    assert first["category"].dtype == torch.int64
    program = trace(part, first, {name: {0: BATCH} for name in first}).module()
    for inputs in (first, *others):
        torch.testing.assert_close(program(inputs), part(inputs), atol=1e-5, rtol=1e-5)
