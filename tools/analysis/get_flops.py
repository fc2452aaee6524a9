"""Count parameters, multiply-adds and memory of a model: of a name in the zoo, or of any config.

Examples:
    python tools/analysis/get_flops.py davit_tiny shvit_s1 --size 224
    python tools/analysis/get_flops.py configs/davit/davit-t_upernet_camvid.py --depth 3
    python tools/analysis/get_flops.py risurconv_cls --points 1024 --model-args num_classes=40

MACs are the multiply-adds of matrix products, convolutions and attention (half of what PyTorch's flop counter
counts); norms, activations, Fourier transforms and searches among points are not in them. "kept" is what a
forward pass keeps in memory for the backward pass, besides weights; "peak" the most that the tensors of an
evaluation hold at once. All of a batch of one, unless --batch says otherwise, in evaluation mode. Detectors
are counted up to the outputs of their heads.
"""

import argparse
from collections.abc import Callable, Sequence

from pointsuite.engine import command
from pointsuite.engine.errors import UsageError


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.Parser(description=__doc__)
    parser.add_argument(
        "models", nargs="+", metavar="MODEL", help="names of pointsuite's or dense's zoo, or config files"
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs="+",
        metavar="N",
        help="of images, H or H W (default: the config's crop_size, else 224)",
    )
    parser.add_argument("--points", type=int, default=1024, help="of clouds (default: 1024)")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument(
        "--depth",
        type=command.whole(0),
        help="of the table of modules (default: 2 for one model, 0 for several)",
    )
    for option, what in (
        ("--model-args", "arguments of the zoo's models"),
        ("--cfg-options", "override configs"),
    ):
        parser.add_argument(
            option, nargs="+", action=command.KeyValue, default={}, metavar="KEY=VALUE", help=what
        )
    args = parser.parse_args(argv)
    if args.size and len(args.size) > 2:
        parser.error(f"--size: found {len(args.size)} numbers, wanted H or H W")
    if min(args.batch, args.points, *(args.size or [1])) < 1:
        parser.error("--size, --points and --batch must be at least 1")
    configs = [name for name in args.models if name.endswith(".py")]
    if args.cfg_options and not configs:
        parser.error("--cfg-options are for configs, found none")
    if args.model_args and len(configs) == len(args.models):
        parser.error("--model-args are for names of a zoo, found configs only")
    depth = args.depth if args.depth is not None else 2 * (len(args.models) == 1)
    for name in args.models:
        print(describe(name, args, depth), flush=True)


def describe(name: str, args: argparse.Namespace, depth: int) -> str:
    """A heading and a table of the modules down to `depth`."""
    from pointsuite.engine.profiling import count_costs, format_costs, format_number, peak_memory

    try:
        model, forward, shapes = build(name, args)
        model.eval()
        costs = count_costs(model, forward)
        peak = peak_memory(forward, "cpu")
    except UsageError:
        raise
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name}: {error}") from error
    inputs = ", ".join(" x ".join(map(str, shape)) for shape in shapes)
    return f"{name}: {inputs}, peak {format_number(peak, 'B')}\n{format_costs(model, costs, depth)}\n"


def build(name: str, args: argparse.Namespace) -> tuple:
    """A model, a function that calls it without arguments, and the shapes of its inputs.

    Raises:
        UsageError, ValueError: there is no such model.
    """
    import torch
    from torch.nn.functional import normalize

    import dense
    import pointsuite.datasets
    from pointsuite.engine.profiling import example_inputs

    size, on_clouds, call = args.size, name in pointsuite.list_models(), {}  # call: arguments besides inputs
    if on_clouds:
        model = pointsuite.create_model(name, **args.model_args)
    elif not name.endswith(".py"):
        model = dense.create_model(name, **args.model_args)
    else:
        cfg = command.read_config(name, args.cfg_options)
        model = command.build_model(cfg)
        size = size or cfg.get("crop_size")
        on_clouds = cfg.get("default_scope") == "pointsuite"
        call["mode"] = "tensor"
    if on_clouds:
        points = torch.randn(args.batch, args.points, 6)
        points[..., 3:] = normalize(points[..., 3:], dim=-1)
        inputs = (points,)
        labels = torch.zeros(args.batch, dtype=torch.int64)
        if "mode" in call:
            call["data_samples"] = [pointsuite.datasets.PointDataSample(gt_label=label) for label in labels]
        elif getattr(model, "num_categories", 1) > 1:
            call["category"] = labels
    else:
        height, *width = size or [224]
        inputs = example_inputs(model, args.batch, (height, *(width or [height])))
        if "mode" in call and cfg.get("default_scope") == "mmdet":
            call["data_samples"] = detection_samples(inputs[0])
    forward: Callable = lambda: model(*inputs, **call)  # noqa: E731
    return model, forward, [tuple(x.shape) for x in inputs]


def detection_samples(inputs) -> list:
    """What detectors want to know of their images."""
    from mmdet.structures import DetDataSample

    height, width = inputs.shape[2:]
    sizes = dict.fromkeys(("img_shape", "ori_shape", "pad_shape", "batch_input_shape"), (height, width))
    return [DetDataSample(metainfo={**sizes, "scale_factor": (1.0, 1.0)}) for _ in inputs]


if __name__ == "__main__":
    command.run(main)
