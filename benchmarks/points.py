"""Time every operator on point clouds, and their networks, against what one would otherwise call.

Examples:
    python benchmarks/points.py                    # everything, on the CPU
    python benchmarks/points.py knn fps --sizes 1024 4096 --threads 2
    python benchmarks/points.py models --model risurconv_cls
    python benchmarks/points.py knn ball_query fps --name peers   # after pip install fpsample
    python benchmarks/points.py --device cuda

All that a row compares takes turns in one process, after a warm-up, on one cloud of points on a rough sphere;
a row gives medians in milliseconds and, in brackets, the time of each relative to ours: median and quartiles
of the rounds' ratios. What is not installed is left out, and named. On a GPU, CUDA events time, and
"roofline" is the least that the operator's arithmetic (of all pairs, for searches) and memory traffic can
take. Models (16 clouds of 1024 points for classifiers, 8 of 2048 for part segmenters) are timed in units: one
is a 2048x2048 float32 matrix product with the same threads. Writes benchmark_<device>.json, .txt and .png to
`--out`, or benchmark_<name>_<device>.
"""

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pointsuite  # before PyTorch: it sets how threads wait  # isort: skip
import numpy as np
import torch
from torch.nn.functional import cross_entropy, linear, normalize

from pointsuite import ops
from pointsuite.engine import command, profiling
from pointsuite.engine.profiling import take_turns, time_turns
from pointsuite.engine.tables import align_columns

K = 16
SIZES = (1024, 4096, 16_384, 65_536, 262_144, 1_000_000)
SAMPLES = {1024: 512, 4096: 1024, 16_384: 1024, 65_536: 1000, 262_144: 2000, 1_000_000: 10_000}
MATRIX_LIMIT = 16_384  # points: a distance matrix of more is not what one would call
PORTABLE_LIMIT = 65_536  # points: the portable forms hold large temporaries
CHANNELS = 64
LIBRARIES = ("scipy", "open3d", "fpsample", "torch_cluster", "pyg_lib")  # compared with where they are

Peers = dict[str, Callable]


def optional(name: str):
    """A module, or None where it or a library under it is not installed."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError):
        return None


class Cloud:
    """One cloud in the forms that the libraries take."""

    def __init__(self, size: int, device: str):
        generator = torch.Generator().manual_seed(size)
        normals = normalize(torch.randn(1, size, 3, generator=generator), dim=-1)
        points = normals + 0.01 * torch.randn(1, size, 3, generator=generator)
        self.size, self.device = size, device
        self.points, self.normals = points.to(device), normals.to(device)
        self.flat, self.array = self.points[0], points[0].numpy()
        self.on_cpu = device == "cpu"

    @property
    def radius(self) -> float:
        """Of balls that hold about K points of the sphere's surface."""
        return 2 * (K / self.size) ** 0.5

    def neighbours(self) -> torch.Tensor:
        return ops.knn(self.points, self.points, K)[0]

    def values(self) -> torch.Tensor:
        return torch.randn(1, self.size, CHANNELS, device=self.device)


def knn(cloud: Cloud) -> Peers:
    p, x, array = cloud.points, cloud.flat, cloud.array
    peers = {"pointsuite": lambda: ops.knn(p, p, K)}
    if cloud.size <= MATRIX_LIMIT:
        peers["torch cdist + topk"] = lambda: torch.cdist(p, p).topk(K, largest=False)
    if cloud.on_cpu:
        tree = importlib.import_module("scipy.spatial").cKDTree
        peers["scipy"] = lambda: tree(array, balanced_tree=False, compact_nodes=False).query(
            array, K, workers=torch.get_num_threads()
        )
        if open3d := optional("open3d"):
            peers["open3d"] = lambda: open3d_search(open3d, array).knn_search(array_of(open3d, array), K)
    if cluster := optional("torch_cluster"):
        peers["torch-cluster"] = lambda: cluster.knn(x, x, K, num_workers=torch.get_num_threads())
    if optional("pyg_lib") and hasattr(torch.ops.pyg, "knn"):
        peers["pyg-lib"] = lambda: torch.ops.pyg.knn(x, x, None, None, K, False, torch.get_num_threads())
    return peers


def ball_query(cloud: Cloud) -> Peers:
    p, x, array, r = cloud.points, cloud.flat, cloud.array, cloud.radius
    peers = {"pointsuite": lambda: ops.ball_query(p, p, r, 2 * K)}
    if cloud.on_cpu:
        tree = importlib.import_module("scipy.spatial").cKDTree
        peers["scipy"] = lambda: tree(array, balanced_tree=False, compact_nodes=False).query(
            array, 2 * K, distance_upper_bound=r, workers=torch.get_num_threads()
        )
        if open3d := optional("open3d"):
            peers["open3d"] = lambda: open3d_search(open3d, array, r).hybrid_search(
                array_of(open3d, array), r, 2 * K
            )
    if cluster := optional("torch_cluster"):
        peers["torch-cluster"] = lambda: cluster.radius(
            x, x, r, max_num_neighbors=2 * K, num_workers=torch.get_num_threads()
        )
    return peers


def fps(cloud: Cloud) -> Peers:
    p, x, array = cloud.points, cloud.flat, cloud.array
    count = SAMPLES.get(cloud.size, max(1, cloud.size // 100))
    peers = {"pointsuite": lambda: ops.farthest_point_sample(p, count)}
    if cloud.size * count <= 2**26:
        peers["portable"] = lambda: ops.farthest_point_sample(p, count, backend="torch")
    if cloud.on_cpu and (fpsample := optional("fpsample")):
        # The best height of its tree depends on the size: all that may be the best are timed.
        for h in (3, 5) if cloud.size < 2**14 else (5, 7) if cloud.size < 2**18 else (7, 9):
            peers[f"fpsample h={h}"] = lambda h=h: fpsample.bucket_fps_kdline_sampling(array, count, h, 0)
    if cluster := optional("torch_cluster"):
        ratio = count / cloud.size
        peers["torch-cluster"] = lambda: cluster.fps(x, ratio=ratio, random_start=False)
    return peers


def surface_features(cloud: Cloud) -> Peers:
    arrays = (cloud.points, cloud.normals, cloud.points, cloud.normals, cloud.neighbours())
    peers = {"pointsuite": lambda: ops.surface_features(*arrays)}
    if cloud.size <= PORTABLE_LIMIT:
        peers["portable"] = lambda: ops.surface_features(*arrays, backend="torch")
    return peers


def estimate_normals(cloud: Cloud) -> Peers:
    p, array = cloud.points, cloud.array
    peers = {"pointsuite": lambda: ops.estimate_normals(p, K, "none")}
    if cloud.on_cpu and (open3d := optional("open3d")):
        t = open3d.t.geometry
        peers["open3d"] = lambda: t.PointCloud(array_of(open3d, array)).estimate_normals(K)
    return peers


def gather_points(cloud: Cloud) -> Peers:
    idx, values = cloud.neighbours(), cloud.values()
    index = idx.flatten(1)[..., None].expand(-1, -1, CHANNELS)
    return {
        "pointsuite": lambda: ops.gather_points(values, idx),
        "torch gather": lambda: values.gather(1, index).view(*idx.shape, CHANNELS),
    }


def three_interpolate(cloud: Cloud) -> Peers:
    idx, sqdist = ops.knn(cloud.points, cloud.points, 3)
    values, weight = cloud.values(), ops.inverse_distance_weights(sqdist)
    index = idx.flatten(1)[..., None].expand(-1, -1, CHANNELS)

    def plain():
        return (values.gather(1, index).view(*idx.shape, CHANNELS) * weight[..., None]).sum(2)

    return {"pointsuite": lambda: ops.three_interpolate(values, idx, weight), "torch gather": plain}


def pool_neighbours(cloud: Cloud) -> Peers:
    idx, values = cloud.neighbours(), cloud.values()
    x = torch.randn(*idx.shape, 32, device=cloud.device)
    weight = torch.randn(CHANNELS, 32, device=cloud.device)

    def plain():
        hidden = linear(x, weight) + ops.gather_points(values, idx)
        return hidden.amax(2), *torch.var_mean(hidden, (0, 1, 2), correction=0)

    return {"pointsuite": lambda: ops.pool_neighbours(x, weight, values, idx), "torch": plain}


def linear_relu(cloud: Cloud) -> Peers:
    """Of the surface features of K neighbours, forward and backward."""
    x = torch.randn(1, cloud.size, K, ops.NUM_FEATURES, device=cloud.device)
    weight = torch.randn(CHANNELS, ops.NUM_FEATURES, device=cloud.device, requires_grad=True)
    bias = torch.randn(CHANNELS, device=cloud.device, requires_grad=True)
    return forward_and_backward(ops.linear_relu, (weight, bias), x)


def add_activated(cloud: Cloud) -> Peers:
    """Of K neighbours, forward and backward."""
    x, h = (
        torch.randn(1, cloud.size, K, CHANNELS, device=cloud.device, requires_grad=True) for _ in range(2)
    )
    slope, shift = (torch.randn(CHANNELS, device=cloud.device, requires_grad=True) for _ in range(2))
    return forward_and_backward(ops.add_activated, (x, h, slope, shift))


def offset_attention(cloud: Cloud) -> Peers:
    """Groups of K neighbours, forward and backward."""
    x = torch.randn(1, cloud.size, K, 32, device=cloud.device, requires_grad=True)
    projected = torch.randn(1, cloud.size, K, 48, device=cloud.device, requires_grad=True)
    return forward_and_backward(lambda *t, fused: ops.offset_attention(*t, -3, fused=fused), (x, projected))


def projected_attention(cloud: Cloud) -> Peers:
    """Groups of K neighbours, forward and backward."""
    x = torch.randn(1, cloud.size, K, 32, device=cloud.device, requires_grad=True)
    narrow, wide = (torch.randn(rows, 32, device=cloud.device, requires_grad=True) for rows in (16, 64))
    return forward_and_backward(
        lambda *t, fused: ops.projected_attention(*t, None, -3, fused=fused)[0], (x, narrow, wide)
    )


def forward_and_backward(function: Callable, tensors: tuple[torch.Tensor, ...], *first) -> Peers:
    """An operator's fused and its plain form, with gradients of tensors."""

    def step(fused):
        torch.autograd.grad(function(*first, *tensors, fused=fused).sum(), tensors)

    return {"pointsuite": lambda: step(True), "torch": lambda: step(False)}


def knn_graph(cloud: Cloud, dims: int) -> Peers:
    """Graphs of the 20 nearest features of each point in 16 clouds."""
    x = torch.randn(16, cloud.size, dims, device=cloud.device)
    flat, batch = x.flatten(0, 1), torch.arange(16, device=cloud.device).repeat_interleave(cloud.size)
    return {
        "pointsuite": lambda: ops.graph.knn_graph(flat, 20, batch),
        "torch cdist + topk": lambda: torch.cdist(x, x).topk(21, largest=False),
    }


# name -> (what to compare, the largest cloud, arithmetic and numbers moved for a cloud of n points)
OPS = {
    "knn": (knn, SIZES[-1], lambda n: (8 * n * n, n * (3 + 3 * K))),
    "ball_query": (ball_query, SIZES[-1], lambda n: (8 * n * n, n * (3 + 4 * K))),
    "fps": (fps, SIZES[-1], lambda n: (8 * n * SAMPLES.get(n, n // 100), 3 * n)),
    "surface_features": (
        surface_features,
        SIZES[-1],
        lambda n: (200 * n * K, 18 * n * K),
    ),
    "estimate_normals": (estimate_normals, 65_536, lambda n: (8 * n * n, 6 * n)),
    "gather_points": (gather_points, 65_536, lambda n: (0, n * (CHANNELS + K * (2 + CHANNELS)))),
    "three_interpolate": (three_interpolate, 65_536, lambda n: (6 * n * CHANNELS, n * (9 + 2 * CHANNELS))),
    "pool_neighbours": (
        pool_neighbours,
        65_536,
        lambda n: (64 * n * K * CHANNELS, 162 * n * K),
    ),
    "linear_relu": (linear_relu, 65_536, lambda n: (56 * n * K * CHANNELS, n * K * (28 + 2 * CHANNELS))),
    "add_activated": (add_activated, 65_536, lambda n: (10 * n * K * CHANNELS, 7 * n * K * CHANNELS)),
    "offset_attention": (offset_attention, 16_384, lambda n: (300 * n * K * K, 400 * n * K)),
    "projected_attention": (
        projected_attention,
        16_384,
        lambda n: (300 * n * K * K + 6 * n * K * 32 * 80, 400 * n * K),
    ),
    **{
        f"knn_graph_{dims}": (
            partial(knn_graph, dims=dims),
            4096,
            lambda n, d=dims: (32 * n * n * d, 16 * n * d),
        )
        for dims in (16, 32, 64, 128, 256)
    },
}


def array_of(open3d, array: np.ndarray):
    return open3d.core.Tensor.from_numpy(array)


def open3d_search(open3d, array: np.ndarray, radius: float | None = None):
    search = open3d.core.nns.NearestNeighborSearch(array_of(open3d, array))
    search.knn_index() if radius is None else search.hybrid_index(radius)
    return search


def compare(name: str, size: int, device: str, seconds: float, peaks: tuple[float, float] | None) -> dict:
    """One row: medians of an operator and its peers, and on a GPU the roofline."""
    peers, _, work = OPS[name]
    times = time_turns(peers(Cloud(size, device)), device, seconds)
    medians = {peer: float(np.median(ms)) for peer, ms in times.items()}
    row = {"op": name, "points": size, "ms": medians, "ratios": ratios(times)}
    if peaks:
        arithmetic, numbers = work(size)
        row["roofline"] = 1e3 * max(arithmetic / peaks[0], 4 * numbers / peaks[1])
    return row


def ratios(times: dict[str, list[float]]) -> dict[str, list[float]]:
    """Quartiles of each peer's time relative to ours of the same round."""
    ours = np.array(times["pointsuite"])
    return {
        peer: np.quantile(np.array(ms) / ours, (0.25, 0.5, 0.75)).tolist()
        for peer, ms in times.items()
        if peer != "pointsuite"
    }


def gpu_peaks() -> tuple[float, float]:
    """float32 operations a second outside tensor cores, from the clock; bytes a second, measured."""
    card = torch.cuda.get_device_properties(0)
    lanes = 64 if (card.major, card.minor) in ((7, 0), (7, 5), (8, 0)) else 128
    block = torch.empty(2**28, dtype=torch.uint8, device="cuda")
    copy = take_turns({"copy": block.clone}, "cuda", 0.5)["copy"]
    return card.multi_processor_count * lanes * 2 * card.clock_rate * 1e3, 2e3 * block.numel() / copy


def make_calls(name: str, batch: int, size: int, device: str) -> tuple[torch.nn.Module, dict[str, Callable]]:
    """A classifier or part segmenter, and what is timed of it on random clouds; a unit is one product."""
    torch.manual_seed(0)
    segments = "partseg" in name
    options = {"num_parts": 50, "num_categories": 16} if segments else {"num_classes": 40}
    network = pointsuite.create_model(name, **options).to(device)
    points = torch.randn(batch, size, 6, device=device)
    points[..., 3:] = normalize(points[..., 3:], dim=-1)
    inputs = (points, torch.randint(0, 16, (batch,), device=device)) if segments else (points,)
    labels = torch.randint(0, 40, (batch * size if segments else batch,), device=device)
    matrix = torch.randn(2048, 2048, device=device)
    optimizer = torch.optim.Adam(network.parameters(), fused=True)

    @torch.inference_mode()
    def evaluation():
        network.eval()(*inputs)

    def training_step():
        network.train()
        optimizer.zero_grad()
        cross_entropy(network(*inputs).flatten(0, -2), labels).backward()
        optimizer.step()

    calls = {"unit": lambda: matrix @ matrix, "evaluation": evaluation, "training step": training_step}
    return network, calls


def time_model(name: str, device: str, seconds: float) -> dict:
    """Evaluation and training step of a classifier or part segmenter, in units of one matrix product."""
    batch, size = (8, 2048) if "partseg" in name else (16, 1024)
    _, calls = make_calls(name, batch, size, device)
    times = take_turns(calls, device, seconds)
    units = {part: times[part] / times["unit"] for part in ("evaluation", "training step")}
    return {"model": name, "batch": batch, "points": size, "ms": times, "units": units}


def table(report: dict) -> str:
    """A line for each row of the report: our time, then the others', fastest first."""
    lines = [[row["op"], f"{row['points']:,}", *cells(row)] for row in report["ops"]]
    for row in report["models"]:
        size = f"{row['batch']} x {row['points']:,}"
        parts = [f"{part} {value:.1f} units" for part, value in row["units"].items()]
        lines.append([row["model"], size, f"unit {row['ms']['unit']:.2f}", *parts])
    absent = f"not installed: {', '.join(report['absent'])}\n" if report["absent"] else ""
    return profiling.format_head(report) + absent + align_columns(lines, left=None) + "\n"


def cells(row: dict) -> list[str]:
    ours = row["ms"]["pointsuite"]
    found = [f"pointsuite {ours:.3g}"]
    for name, (low, middle, high) in sorted(row["ratios"].items(), key=lambda item: item[1][1]):
        found.append(f"{name} {row['ms'][name]:.3g} ({middle:.2f}x, {low:.2f} to {high:.2f})")
    return found + ([f"roofline {row['roofline']:.3g}"] if "roofline" in row else [])


def plot(report: dict, path: Path) -> None:
    """Milliseconds over points, log-log, one panel an operator."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row["op"] for row in report["ops"]))
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    figure = Figure((4.5 * columns, 3.6 * lines), layout="constrained")
    for axes, name in zip(figure.subplots(lines, columns, squeeze=False).flat, names, strict=False):
        rows = [row for row in report["ops"] if row["op"] == name]
        for peer in dict.fromkeys(peer for row in rows for peer in row["ms"]):
            found = [(row["points"], row["ms"][peer]) for row in rows if peer in row["ms"]]
            width = 2.5 if peer == "pointsuite" else 1.2
            axes.loglog(*zip(*found, strict=True), marker="o", markersize=3, linewidth=width, label=peer)
        axes.set(title=name, xlabel="points", ylabel="ms")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    for axes in figure.axes[len(names) :]:
        axes.remove()
    figure.suptitle(f"{report['machine']}, {report['date']}", fontsize=9)
    figure.savefig(path, dpi=110)


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.Parser(description=__doc__)
    parser.add_argument("what", nargs="*", metavar="NAME", help=f"models, {', '.join(OPS)}; all by default")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="points a cloud")
    parser.add_argument(
        "--model",
        nargs="+",
        default=["risurconv_cls", "risurconv_partseg"],
        help="classifiers and part segmenters",
    )
    parser.add_argument("--name", help="of the files")
    parser.add_argument("--quick", action="store_true", help="small clouds, one model, 3 rounds")
    profiling.add_timing_options(parser, seconds=3)
    args = parser.parse_args(argv)
    known = [*OPS, "models"]
    if unknown := [name for name in args.what if name not in known]:
        parser.error(f"{unknown} is not known, wanted some of {known}")
    profiling.check_timing_options(parser, args)
    what, sizes, models, seconds = args.what or known, args.sizes, args.model, args.seconds
    if args.quick:
        sizes, models, seconds = (128, 512), ["risurconv_s_cls"], 0

    report = profiling.begin_report("benchmarks/points.py", argv, args.device) | {"ops": [], "models": []}
    report["absent"] = [name for name in LIBRARIES if optional(name) is None]
    peaks = gpu_peaks() if args.device == "cuda" else None
    for name in (name for name in OPS if name in what):
        for size in (size for size in sizes if size <= OPS[name][1]):
            report["ops"].append(compare(name, size, args.device, seconds, peaks))
            print(f"{name} {size:,}:", *cells(report["ops"][-1]), sep="  ", flush=True)
    if "models" in what:
        report["models"] = [time_model(name, args.device, 5 * seconds) for name in models]

    stem = args.out / "_".join(filter(None, ("benchmark", args.name, args.device)))
    profiling.write_report(stem, report, table(report))
    if report["ops"]:
        plot(report, stem.with_suffix(".png"))


if __name__ == "__main__":
    main()
