"""CARVE: what becomes of rows of attention, by version."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dense.explain.carve import LAYERS, carve

from ..adapt import Case, Pack


def adapt(pack: Pack) -> Case:
    """Packs of a choice of ours pin the default, others what is published."""
    words = pack.words
    options = {
        "layers": words.get("layers") or LAYERS,
        "top_percent": words.get("top", 0.2),
        "min_keep_regions": words.get("keep", 3),
        "reference_quirks": not pack.name.startswith("choice"),
    }
    grid = words.get("output_shape")
    image = pack.inputs["image"].numpy()
    words.agree(size_wh=list(image.shape[1::-1]))

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        query, general = ((inputs["temp"] * inputs[name]).softmax(-1) for name in ("query", "general"))
        found = {}
        for version in sorted({name.partition(".")[0] for name in pack.facts}):
            picture = Image.fromarray(image.astype(np.uint8))
            refined = carve(picture, query, general, grid and tuple(grid), version=version, **options)
            found |= {
                f"{version}.fused": torch.from_numpy(refined.fused),
                f"{version}.mask": torch.from_numpy(refined.mask).float(),
                f"{version}.box": torch.tensor(refined.box),
                f"{version}.crop": torch.from_numpy(np.array(refined.image)),
            }
        return found

    return Case(run=run)
