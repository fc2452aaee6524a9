"""Time what the position relation of Relation-DETR costs, and count its memory.

Example:
    python benchmarks/relation.py --queries 300 900 --threads 2

MMDetection's DINO with a ResNet-50, the same with our relation as a plug-in, and Relation-DETR without its
hybrid branch (so that all three have as many queries), random weights, one random image with seven boxes.
Evaluation and training step (forward, losses, backward) take turns in one process with a 2048x2048 float32
matrix product, the unit. "peak" is the most memory that tensors hold at once besides the weights. Writes
benchmark_relation_<device>.json and .txt to `--out`.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import dense  # before mmcv and mmdet  # isort: skip
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from torch import nn

import dense.detection  # registers the detectors  # noqa: F401
from pointsuite.engine import command, profiling
from pointsuite.engine.profiling import peak_memory, take_turns

CONFIGS = Path(__file__).parents[1] / "configs/relation_detr"
PEERS = ("DINO", "DINO + relation", "Relation-DETR")


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.Parser(description=__doc__)
    parser.add_argument("--queries", type=int, nargs="+", default=[300, 900])
    parser.add_argument("--size", type=int, nargs=2, default=[480, 640], metavar=("H", "W"))
    profiling.add_timing_options(parser, seconds=60)
    args = parser.parse_args(argv)
    if min(*args.queries, *args.size) < 1:
        parser.error("--queries and --size must be at least 1")
    profiling.check_timing_options(parser, args)
    report = profiling.begin_report("benchmarks/relation.py", argv, args.device) | {
        "size": args.size,
        "rows": [
            row
            for queries in args.queries
            for training in (False, True)
            for row in time_row(args, queries, training)
        ],
    }
    profiling.write_report(args.out / f"benchmark_relation_{args.device}", report, table(report))


def time_row(args: argparse.Namespace, queries: int, training: bool) -> list[dict]:
    """A row for each peer, timed in turns."""
    calls = {name: make_call(build(name, queries).to(args.device), args, training) for name in PEERS}
    peaks = {name: peak_memory(call, args.device, training) for name, call in calls.items()}
    matrix = torch.randn(2048, 2048, device=args.device)
    times = take_turns({"unit": lambda: matrix @ matrix, **calls}, args.device, args.seconds)
    return [
        {
            "network": name,
            "queries": queries,
            "mode": "training step" if training else "evaluation",
            "ms": times[name],
            "units": times[name] / times["unit"],
            "time_ratio": times[name] / times[PEERS[0]],
            "peak_bytes": peaks[name],
            "memory_ratio": peaks[name] / peaks[PEERS[0]],
        }
        for name in PEERS
    ]


def build(name: str, queries: int) -> nn.Module:
    """A detector with weights that make its queries differ, as training does."""
    file = "relation-detr_r50" if name == "Relation-DETR" else "relation-dino_r50"
    model = Config.fromfile(CONFIGS / f"{file}_8xb2-12e_coco.py").model
    if name == "DINO":
        model.type = "DINO"
        del model.decoder["relation_encoder"]
    if name == "Relation-DETR":
        model.hybrid_queries = 0
    model.num_queries = queries
    model.backbone.init_cfg = None
    torch.manual_seed(0)
    MMLogger.get_current_instance().setLevel("ERROR")  # init_weights would name every weight
    with DefaultScope.overwrite_default_scope("mmdet"):
        network = MODELS.build(model)
    network.init_weights()
    for branch in network.bbox_head.reg_branches:
        nn.init.normal_(branch[-1].weight, std=0.02)
    return network


def make_call(network: nn.Module, args: argparse.Namespace, training: bool) -> Callable:
    height, width = args.size
    images = torch.randn(1, 3, height, width, device=args.device)
    sizes = {"img_shape": (height, width), "batch_input_shape": (height, width), "ori_shape": (height, width)}
    sample = DetDataSample(metainfo={**sizes, "scale_factor": (1.0, 1.0)})
    corners = torch.rand(7, 2, 2, generator=torch.Generator().manual_seed(0)).sort(1).values
    boxes = corners.flatten(1) * torch.tensor([width, height, width, height])
    sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.arange(7))
    sample = sample.to(args.device)
    network.train(training)

    def train():
        loss, _ = network.parse_losses(network.loss(images, [sample]))
        loss.backward()
        network.zero_grad(set_to_none=True)

    @torch.no_grad()
    def evaluate():
        network.predict(images, [sample])

    return train if training else evaluate


def table(report: dict) -> str:
    height, width = report["size"]
    lines = [
        f"one image of {height} x {width}; ratios to {PEERS[0]} of MMDetection",
        f"{'queries':>7} {'mode':13} {'network':16} {'ms':>8} {'units':>6} {'time':>6} "
        f"{'peak MB':>8} {'memory':>6}",
    ]
    lines += [
        f"{row['queries']:7d} {row['mode']:13} {row['network']:16} {row['ms']:8.0f} {row['units']:6.1f} "
        f"{row['time_ratio']:6.3f} {row['peak_bytes'] / 1e6:8.1f} {row['memory_ratio']:6.3f}"
        for row in report["rows"]
    ]
    return profiling.format_head(report) + "\n".join(lines) + "\n"


if __name__ == "__main__":
    command.run(main)
