"""Evaluation and training step of RISurConv's classifier on the CPU, in units.

One unit is a 2048x2048 float32 matrix product on the same threads. All parts are timed in turn, several
rounds; each figure is a ratio of medians.

    python benchmarks/risurconv_cpu.py [--model risurconv_cls] [--threads 2] [--batch 16] [--points 1024]
"""

import argparse
import statistics
import time

import pointsuite  # before PyTorch: it sets how threads wait  # isort: skip
import torch
from torch.nn.functional import cross_entropy, normalize


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="risurconv_cls")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--points", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    network = pointsuite.create_model(args.model, num_classes=40)
    points = torch.randn(args.batch, args.points, 6)
    points[..., 3:] = normalize(points[..., 3:], dim=-1)
    labels = torch.randint(0, 40, (args.batch,))
    matrix = torch.randn(2048, 2048)
    optimizer = torch.optim.Adam(network.parameters(), fused=True)

    @torch.inference_mode()
    def evaluation():
        network.eval()(points)

    def training_step():
        network.train()
        optimizer.zero_grad()
        cross_entropy(network(points), labels).backward()
        optimizer.step()

    parts = {
        "unit": lambda: matrix @ matrix,
        "geometry": lambda: network.geometry(points),
        "evaluation": evaluation,
        "training step": training_step,
    }
    times = {name: [] for name in parts}
    for measured in range(-1, args.rounds):  # the first round only warms up
        for name, part in parts.items():
            began = time.perf_counter()
            part()
            if measured >= 0:
                times[name].append(time.perf_counter() - began)
    median = {name: statistics.median(values) for name, values in times.items()}
    print(f"{args.model}, batch {args.batch} of {args.points} points, {args.threads} threads, ", end="")
    print(f"one unit {1000 * median['unit']:.0f} ms")
    for name in ("geometry", "evaluation", "training step"):
        print(
            f"{name:16}{median[name] / median['unit']:8.1f} units{args.batch / median[name]:10.0f} clouds/s"
        )


if __name__ == "__main__":
    main()
