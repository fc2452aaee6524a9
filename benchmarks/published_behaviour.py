"""Measure how RISurConv's published behaviour differs from our defaults.

Example:
    python benchmarks/published_behaviour.py [--published FILE]

Compares predictions of one cloud alone and in a batch, and before and after rotations, by the largest
difference of a class probability. `--published` takes a file of the authors; without it the weights are
random, with the statistics of a batch.
"""

from collections.abc import Sequence

import numpy as np
import torch

import pointsuite
from pointsuite.datasets import PointCloudDataset
from pointsuite.engine import command
from pointsuite.engine.checkpoint import find_state_dict, load_checkpoint
from pointsuite.transforms import NormalizeUnitSphere, PackPoints, random_rotation

NETWORKS = {
    "default": {},
    "batch_attention='published'": {"batch_attention": "published"},
    "global_sign='lapack'": {"global_sign": "lapack"},
    "neighbour_order='index'": {"neighbour_order": "index"},
    "reference_sign='rounded'": {"reference_sign": "rounded"},
    "global_origin='origin'": {"global_origin": "origin"},
    "global_attention='published'": {"global_attention": "published"},
    "reference_quirks=True": {"reference_quirks": True},
}


def build(flags: dict, published: str | None, clouds: torch.Tensor) -> torch.nn.Module:
    torch.manual_seed(0)
    network = pointsuite.create_model("risurconv_cls", num_classes=40, width=2, **flags)
    if published:
        state = find_state_dict(load_checkpoint(published, numpy_numbers=True), published)
        network.load_state_dict(network.convert_official(state))
    else:
        with torch.no_grad():
            for _ in range(5):  # move the running statistics towards those of the batch
                network(clouds)
    return network.double().eval()


@torch.no_grad()
def main(argv: Sequence[str] | None = None) -> None:
    parser = command.Parser(description=__doc__)
    parser.add_argument("--data", default="data/kicad/kicad.h5")
    parser.add_argument("--published")
    args = parser.parse_args(argv)
    dataset = PointCloudDataset(args.data, "test", [NormalizeUnitSphere(), PackPoints()])
    chosen = np.linspace(0, len(dataset) - 1, 8).astype(int)
    clouds = torch.stack([dataset[i]["inputs"] for i in chosen]).double()
    turns = [torch.from_numpy(random_rotation(np.random.default_rng(seed))) for seed in range(4)]

    print(f"{'largest change of a probability':32} {'in a batch':>12} {'rotated':>12} {'shifted':>12}")
    for name, flags in NETWORKS.items():
        network = build(flags, args.published, clouds.float())
        alone = torch.cat([network(cloud[None]) for cloud in clouds]).softmax(-1)

        def change(points, network=network, alone=alone):
            moved = torch.cat([network(cloud[None]) for cloud in points]).softmax(-1)
            return (moved - alone).abs().max().item()

        together = (network(clouds).softmax(-1) - alone).abs().max().item()
        rotated = max(change(torch.cat([c @ turn.T for c in clouds.split(3, -1)], -1)) for turn in turns)
        shifted = change(clouds + torch.tensor([0.3, 0, 0, 0, 0, 0], dtype=clouds.dtype))
        print(f"{name:32} {together:12.1e} {rotated:12.1e} {shifted:12.1e}")


if __name__ == "__main__":
    main()
