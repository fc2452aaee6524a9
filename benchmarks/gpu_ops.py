"""Time the point operators on an NVIDIA GPU: Triton kernels, PyTorch and, where installed, torch-cluster.

    python benchmarks/gpu_ops.py [--batch 32] [--out benchmarks/results]

Medians of CUDA events, the L2 cache emptied between runs. "kernel" is the Triton function alone, "operator"
the public one with its checks of the values; "ratio" is PyTorch's time (the baseline) over the kernel's.
Every kernel's result is first compared with the CPU's, to the bit. Writes gpu_ops.json and gpu_ops.txt.
"""

import argparse
import datetime
import json
import pathlib
import shlex
import sys

import torch

from pointsuite.ops import farthest_point_sample, knn, surface_features

# (centres, points, neighbours) of the layers of a classifier of 1024 points; the first is the goal's.
KNN = [(1024, 1024, 32), (1024, 1024, 8), (512, 1024, 16), (256, 512, 32), (128, 256, 64)]
KNN += [(4096, 100_000, 16)]
SAMPLE = [(1024, 512), (1024, 1024), (8192, 1024), (100_000, 1024)]  # (points, samples)
FEATURES = [(1024, 1024, 8), (512, 1024, 16), (256, 512, 32), (128, 256, 64)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32, help="clouds (one for clouds of 100,000 points)")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results"))
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu_ops.py wants an NVIDIA GPU, found none: torch.cuda.is_available() is False")
    torch.manual_seed(0)
    rows = [bench_knn(args.batch, *case) for case in KNN]
    rows += [bench_sample(args.batch, *case) for case in SAMPLE]
    rows += [bench_features(args.batch, *case) for case in FEATURES]
    report = {
        "date": datetime.date.today().isoformat(),
        "card": torch.cuda.get_device_name(),
        "torch": f"torch {torch.__version__}",
        "command": shlex.join(["python", *sys.argv]),
        "unit": "ms",
        "rows": rows,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "gpu_ops.json").write_text(json.dumps(report, indent=1) + "\n")
    text = table(report)
    (args.out / "gpu_ops.txt").write_text(text)
    print(text, end="")


def bench_knn(batch: int, size: int, number: int, k: int) -> dict:
    from pointsuite.ops.triton.knn import knn as kernel

    points, _ = clouds(batch, number)
    query = points[:, :size].contiguous()
    same = all(map(same_bits, kernel(query, points, k), knn(query.cpu(), points.cpu(), k)))

    def cdist_topk():
        return torch.cdist(query, points).topk(k, largest=False)

    times = {
        "kernel": time(lambda: kernel(query, points, k)),
        "operator": time(lambda: knn(query, points, k)),
        "torch": time(cdist_topk),
    }
    if cluster := torch_cluster():
        x, of_x = flat(points)
        y, of_y = flat(query)
        times["torch_cluster"] = time(lambda: cluster.knn(x, y, k, of_x, of_y))
    return row(f"knn {len(points)}x{size}x{number} k={k}", same, times, "cdist + topk")


def bench_sample(batch: int, number: int, samples: int) -> dict:
    from pointsuite.ops.triton.farthest_point_sample import farthest_point_sample as kernel

    points, _ = clouds(batch, number)
    start = torch.zeros(len(points), dtype=torch.int64, device="cuda")
    same = same_bits(kernel(points, samples, start), farthest_point_sample(points.cpu(), samples))
    times = {
        "kernel": time(lambda: kernel(points, samples, start)),
        "operator": time(lambda: farthest_point_sample(points, samples)),
        "torch": time(lambda: farthest_point_sample(points, samples, backend="torch")),
    }
    if cluster := torch_cluster():
        x, of_x = flat(points)
        times["torch_cluster"] = time(lambda: cluster.fps(x, of_x, samples / number, random_start=False))
    return row(f"farthest_point_sample {len(points)}x{number}->{samples}", same, times, "portable operator")


def bench_features(batch: int, size: int, number: int, k: int) -> dict:
    from pointsuite.ops.triton.surface_features import surface_features as kernel

    points, normals = clouds(batch, number)
    centres, centre_normals = points[:, :size].contiguous(), normals[:, :size].contiguous()
    arrays = (centres, centre_normals, points, normals, knn(centres, points, k)[0])
    found, expected = kernel(*arrays, 1), surface_features(*(a.cpu() for a in arrays))
    times = {
        "kernel": time(lambda: kernel(*arrays, 1)),
        "operator": time(lambda: surface_features(*arrays)),
        "torch": time(lambda: surface_features(*arrays, backend="torch")),
    }
    return row(
        f"surface_features {len(points)}x{size} K={k}",
        all(map(same_bits, found, expected)),
        times,
        "portable operator",
    )


def clouds(batch: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points on unit spheres and their normals, slightly rough."""
    normals = torch.nn.functional.normalize(torch.randn(1 if number >= 100_000 else batch, number, 3), dim=-1)
    return (normals + 0.01 * torch.randn_like(normals)).cuda(), normals.cuda()


def torch_cluster():
    try:
        import torch_cluster
    except ImportError:
        return None
    return torch_cluster


def flat(batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """torch-cluster's form of a batch: all points in one list, and the cloud of each."""
    return batch.flatten(0, 1), torch.arange(len(batch), device="cuda").repeat_interleave(batch.shape[1])


def same_bits(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.equal(found.cpu(), expected)


def time(function) -> float:
    """Median milliseconds."""
    import triton

    return triton.testing.do_bench(function, warmup=25, rep=200, return_mode="median")


def row(case: str, same: bool, times: dict, baseline: str) -> dict:
    times = {name: round(value, 4) for name, value in times.items()}
    return {
        "case": case,
        "equals_cpu": same,
        **times,
        "baseline": baseline,
        "ratio": round(times["torch"] / times["kernel"], 1),
    }


def table(report: dict) -> str:
    """Aligned columns of the report's rows."""
    columns = ["case", "equals_cpu", "kernel", "operator", "torch_cluster", "torch", "ratio", "baseline"]
    lines = [columns] + [[str(line.get(column, "-")) for column in columns] for line in report["rows"]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    head = "  ".join(report[key] for key in ("date", "card", "torch", "command", "unit")) + "\n"
    rows = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return head + "".join(line.rstrip() + "\n" for line in rows)


if __name__ == "__main__":
    main()
