"""Small pictures and paths in the layouts of the data sets, and a network of a few objects."""

import json

import numpy as np
import torch
from PIL import Image

from dense.gaze.networks.oat import OAT

ARCH = {**OAT.archs["yogurt"], **OAT.example_arch}


def make_network(seed=0, **options):
    """Of 2 x 3 objects, whose biases are not zero, in evaluation mode."""
    torch.manual_seed(seed)
    arch = {**ARCH, **options.pop("arch", {})}
    network = OAT(arch, **options).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return network


def write_picture(path, size=(64, 48), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
    Image.fromarray(pixels).save(path)


def write_osie(root, count=10, people=3, size=(64, 48)):
    """Photographs, and fixations of people: the first of each is in the middle, for 200 ms."""
    rng, found = np.random.default_rng(0), {}
    for i in range(count):
        name = f"{1001 + i}.jpg"
        write_picture(root / "images" / name, size, i)
        found[name] = [
            [
                [size[0] / 2, size[1] / 2, 200],
                *([*(rng.random(2) * size).round(1).tolist(), 100 + 50 * n] for n in range(2 + person)),
            ]
            for person in range(people)
        ]
    (root / "scanpaths.json").write_text(json.dumps({"scanpaths": found}))


def write_search(root, count=10, objects=22):
    rng = np.random.default_rng(0)
    trials = []
    for i in range(count):
        write_picture(root / f"images/{i}.jpg", (88, 64), i)
        path = rng.integers(objects, size=3).tolist()
        trials.append({"image": f"images/{i}.jpg", "target": path[-1], "path": path})
    (root / "scanpaths.json").write_text(json.dumps({"trials": trials}))
