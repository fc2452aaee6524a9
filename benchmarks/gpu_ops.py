"""Time the point operators on an NVIDIA GPU: Triton kernels, PyTorch and, where installed, torch-cluster.

Example:
    python benchmarks/gpu_ops.py [--batch 32] [--out benchmarks/results]

Medians of CUDA events, the L2 cache emptied between runs. "kernel" is the Triton function alone, "operator"
the public one with its checks of the values; "ratio" is PyTorch's time (the baseline) over the kernel's.
Every kernel's result is first compared with the CPU's: geometry to the bit, networks by the relative error.
"floor" is the least time for the bytes and the operations of each case at the rates that a copy and a float32
(or bfloat16) matrix product reach on the same card: no kernel can be faster, and sampling, a chain of steps,
is far from it. Writes gpu_ops.json and gpu_ops.txt.
"""

import datetime
import functools
import json
import pathlib
import shlex
import sys
from collections.abc import Sequence

import torch

import pointsuite
from pointsuite.engine import command
from pointsuite.engine.tables import align_columns
from pointsuite.ops import farthest_point_sample, knn, offset_attention, surface_features

# (centres, points, neighbours) of the layers of a classifier of 1024 points; the first is the goal's.
KNN = [(1024, 1024, 32), (1024, 1024, 8), (512, 1024, 16), (256, 512, 32), (128, 256, 64)]
KNN += [(4096, 100_000, 16), (100_000, 100_000, 16), (1_000_000, 1_000_000, 16)]
SAMPLE = [(1024, 512), (1024, 1024), (8192, 1024), (100_000, 1024), (1_000_000, 10_000)]  # (points, samples)
FEATURES = [(1024, 1024, 8), (512, 1024, 16), (256, 512, 32), (128, 256, 64)]
# (groups, members, channels) of the classifier's attentions, among neighbours and among points.
NEIGHBOURS = [(1024, 8, 64), (512, 16, 64), (256, 32, 64), (128, 64, 64)]
POINTS = [(1, 1024, 32), (1, 512, 64), (1, 256, 128), (1, 128, 256)]
CLOUDS = 3000  # a second: the goal of the classifier's inference


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.Parser(description=__doc__)
    parser.add_argument("--batch", type=int, default=32, help="clouds (one for clouds of 100,000 points)")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results"))
    args = parser.parse_args(argv)
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu_ops.py wants an NVIDIA GPU, found none: torch.cuda.is_available() is False")
    torch.manual_seed(0)
    rows = [bench_knn(args.batch, *case) for case in KNN]
    rows += [bench_sample(args.batch, *case) for case in SAMPLE]
    rows += [bench_features(args.batch, *case) for case in FEATURES]
    for dtype in (torch.float32, torch.bfloat16):
        for axis, shapes in ((-3, NEIGHBOURS), (-2, POINTS)):
            for shape in shapes:
                rows += bench_attention(args.batch, *shape, axis, dtype)
        rows.append(bench_classifier(args.batch, dtype))
    write_report(rows, args.out, "gpu_ops", argv)


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
    }
    if size * number < 2**32:  # the matrix of distances fits
        times["torch"] = time(cdist_topk)
    # A search need not look at all points; a scan does. 8 operations a distance.
    looked_at = number if size * number < 2**28 else min(number, 32 * k)
    work = len(points) * (12 * (size + number) + 12 * size * k), len(points) * size * looked_at * 8
    if size * number < 2**32 and (cluster := torch_cluster()):
        x, of_x = flat(points)
        y, of_y = flat(query)
        times["torch_cluster"] = time(lambda: cluster.knn(x, y, k, of_x, of_y))
    return row(f"knn {len(points)}x{size}x{number} k={k}", same, times, "cdist + topk", work)


def bench_sample(batch: int, number: int, samples: int) -> dict:
    from pointsuite.ops.triton.farthest_point_sample import farthest_point_sample as kernel

    points, _ = clouds(batch, number)
    start = torch.zeros(len(points), dtype=torch.int64, device="cuda")
    same = same_bits(kernel(points, samples, start), farthest_point_sample(points.cpu(), samples))
    times = {
        "kernel": time(lambda: kernel(points, samples, start)),
        "operator": time(lambda: farthest_point_sample(points, samples)),
    }
    if number * samples < 2**30:
        times["torch"] = time(lambda: farthest_point_sample(points, samples, backend="torch"))
    work = len(points) * (12 * number + 8 * samples), len(points) * number * 8
    if cluster := torch_cluster():
        x, of_x = flat(points)
        times["torch_cluster"] = time(lambda: cluster.fps(x, of_x, samples / number, random_start=False))
    case = f"farthest_point_sample {len(points)}x{number}->{samples}"
    return row(case, same, times, "portable operator", work)


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
        (len(points) * (24 * (size + number) + size * k * (8 + 8 + 56)), len(points) * size * k * 250),
    )


def bench_attention(batch: int, groups: int, members: int, channels: int, axis: int, dtype) -> list[dict]:
    """Forward, and forward and backward together."""
    shape, narrow = (batch, groups, members), channels // 4
    exact = [torch.randn(*shape, width) for width in (channels, 2 * narrow + channels)]
    x, projected = (t.cuda().to(dtype).requires_grad_() for t in exact)
    ones = torch.ones_like(x)
    with torch.no_grad():
        found = offset_attention(x, projected, axis)
        exact = [t.detach()[:1].double().cpu() for t in (x, projected)]
        error = relative_error(found[:1], offset_attention(*exact, axis))

    def step(fused):
        y = offset_attention(x, projected, axis, fused=fused)
        return torch.autograd.grad(y, (x, projected), ones)

    # Products: q k^T twice forward, thrice backward, with A^T v, v g^T twice, A g, dE k and dE^T q.
    entries = 2 * batch * groups * members**2
    moved = batch * groups * members * x.element_size()
    forward = moved * (4 * channels + 4 * narrow), entries * (2 * narrow + channels)
    both = (
        forward[0] + moved * (4 * channels + 10 * narrow),
        entries * (6 * narrow + 4 * channels),
    )
    name = f"{'neighbour' if axis == -3 else 'point'} attention {str(dtype)[6:]} {batch}x{groups}x{members}"
    rows = []
    for suffix, work, function in (("", forward, None), (" with gradient", both, step)):

        def run(fused, function=function):
            if function:
                return function(fused)
            with torch.no_grad():
                return offset_attention(x, projected, axis, fused=fused)

        times = {name: time(functools.partial(run, fused)) for name, fused in FUSED.items()}
        rows.append(row(f"{name} C={channels}{suffix}", error, times, "plain operator", work))
    return rows


FUSED = {"kernel": True, "torch": False}


def bench_classifier(batch: int, dtype) -> dict:
    """The published classifier's inference from points to logits, and the clouds a second that it makes."""
    torch.manual_seed(0)
    model = pointsuite.create_model("risurconv_cls").eval()
    points = torch.cat([t.cpu() for t in clouds(batch, 1024)], -1)
    with torch.inference_mode():
        wanted = model(points[:2])
        model.cuda()
        points = points.cuda()
        fast = dtype != torch.float32

        def infer():
            with torch.autocast("cuda", dtype, enabled=fast):
                return model(points)

        error = relative_error(infer()[:2], wanted)
        times = {"kernel": time(infer)}
        attention = sys.modules["pointsuite.ops.projected_attention"]
        attention.offset_attention = functools.partial(offset_attention, fused=False)
        times["torch"] = time(infer)
        attention.offset_attention = offset_attention
    # 1.26 GMAC a cloud; about ten passes over 8192 neighbours of 64 channels in each of four layers.
    element = 2 if fast else 4
    work = batch * 4 * 10 * 8192 * 64 * element, batch * 2 * 1.26e9
    line = row(f"risurconv_cls {str(dtype)[6:]} {batch}x1024", error, times, "plain attention", work)
    per_second = batch / times["kernel"] * 1000
    return line | {"clouds_per_s": round(per_second), "wanted_clouds_per_s": CLOUDS}


def relative_error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    found, wanted = found.double().cpu(), wanted.double()
    return float(f"{((found - wanted).norm() / wanted.norm()).item():.1e}")


def add_floors(rows: list[dict]) -> None:
    """The least time of each case at the rates that a copy and matrix products reach here."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    bandwidth = 2 * source.numel() / time(lambda: target.copy_(source))  # bytes a millisecond
    rates = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.randn(8192, 8192, device="cuda", dtype=dtype)
        rates[dtype] = 2 * 8192**3 / time(lambda matrix=matrix: matrix @ matrix)
    for line in rows:
        dtype = torch.bfloat16 if "bfloat16" in line["case"] else torch.float32
        line["floor"] = round(max(line["bytes"] / bandwidth, line["operations"] / rates[dtype]), 4)


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


def row(case: str, same: bool | float, times: dict, baseline: str, work: tuple[float, float]) -> dict:
    """`same`: equal to the CPU's result, or the relative error; `work`: bytes to move, operations to do."""
    times = {name: round(value, 4) for name, value in times.items()}
    line = {"case": case, "equals_cpu": same, **times, "bytes": round(work[0]), "operations": round(work[1])}
    if "torch" in times:
        line |= {"baseline": baseline, "ratio": round(times["torch"] / times["kernel"], 1)}
    return line


def write_report(rows: list[dict], folder: pathlib.Path, name: str, argv: Sequence[str] | None) -> None:
    """Write name.json and name.txt, and print the latter."""
    add_floors(rows)
    report = {
        "date": datetime.date.today().isoformat(),
        "card": torch.cuda.get_device_name(),
        "torch": f"torch {torch.__version__}",
        "command": shlex.join(["python", f"benchmarks/{name}.py", *(sys.argv[1:] if argv is None else argv)]),
        "unit": "ms",
        "rows": rows,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    text = table(report)
    (folder / f"{name}.txt").write_text(text)
    print(text, end="")


def table(report: dict) -> str:
    """Aligned columns of the report's rows."""
    columns = [
        "case",
        "equals_cpu",
        "floor",
        "kernel",
        "operator",
        "torch_cluster",
        "torch",
        "ratio",
        "baseline",
    ]
    columns += ["clouds_per_s"]
    columns = [column for column in columns if any(column in line for line in report["rows"])]
    lines = [columns] + [[str(line.get(column, "-")) for column in columns] for line in report["rows"]]
    head = "  ".join(report[key] for key in ("date", "card", "torch", "command", "unit")) + "\n"
    return head + align_columns(lines, left=None) + "\n"


if __name__ == "__main__":
    main()
