"""Count parameters, multiply-adds and memory of a model: of a name in the zoo, or of any config.

    python tools/get_flops.py davit_tiny shvit_s1 --size 224
    python tools/get_flops.py configs/davit/davit-t_upernet_camvid.py --depth 3
    python tools/get_flops.py risurconv_cls --points 1024 --model-args num_classes=40

MACs are the multiply-adds of matrix products, convolutions and attention (half of what PyTorch's flop counter
counts); norms, activations, Fourier transforms and searches among points are not in them. "kept" is what a
forward pass keeps in memory for the backward pass, besides weights; "peak" the most that the tensors of an
evaluation hold at once. All of a batch of one, unless --batch says otherwise, in evaluation mode. Detectors
are counted up to the outputs of their heads.
"""

import argparse
from collections.abc import Callable, Sequence

from pointsuite.engine import command


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
        "--depth", type=int, help="of the table of modules (default: 2 for one model, 0 for several)"
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
    depth = args.depth if args.depth is not None else 2 * (len(args.models) == 1)
    for name in args.models:
        print(describe(name, args, depth), flush=True)


def describe(name: str, args: argparse.Namespace, depth: int) -> str:
    """A heading and a table of the modules down to `depth`."""
    from measure import count_costs, peak_memory

    try:
        model, forward, shape = build(name, args)
        model.eval()
        costs = count_costs(model, forward)
        peak = peak_memory(forward, "cpu")
    except command.UsageError:
        raise
    except (TypeError, ValueError) as error:
        raise command.UsageError(f"{name}: {error}") from error
    whole = costs[""]
    rows = [("module", "parameters", "MACs", "share", "kept")]
    for module_name, module in model.named_modules():
        level = module_name.count(".") + 1 if module_name else 0
        parameters = sum(p.numel() for p in module.parameters())
        macs, kept = costs[module_name]
        if level > depth or not (parameters or macs or kept):
            continue
        share = f"{100 * macs / max(whole.macs, 1):.1f} %"
        rows.append((module_name or "(all)", f"{parameters:,}", prefixed(macs), share, prefixed(kept, "B")))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    head = f"{name}: {' x '.join(map(str, shape))}, peak {prefixed(peak, 'B')}"
    return "\n".join([head, *lines, ""])


def prefixed(value: float, unit: str = "") -> str:
    """With three decimals and a prefix, as "4.540 G"."""
    from matplotlib.ticker import EngFormatter

    return EngFormatter(unit, places=3)(value)


def build(name: str, args: argparse.Namespace) -> tuple:
    """A model, a function that calls it without arguments, and the shape of its inputs.

    Raises:
        UsageError, ValueError: there is no such model.
    """
    import torch
    from torch.nn.functional import normalize

    import dense
    import pointsuite.datasets

    size, on_clouds, call = args.size, name in pointsuite.list_models(), {}  # call: arguments besides inputs
    if on_clouds:
        model = pointsuite.create_model(name, **args.model_args)
    elif name in dense.list_models() or not name.endswith(".py"):
        model = dense.create_model(name, **args.model_args)
    else:
        model, cfg = build_config(name, args.cfg_options)
        size = size or cfg.get("crop_size")
        on_clouds = cfg.get("default_scope") == "pointsuite"
        call["mode"] = "tensor"
    if on_clouds:
        inputs = torch.randn(args.batch, args.points, 6)
        inputs[..., 3:] = normalize(inputs[..., 3:], dim=-1)
        labels = torch.zeros(args.batch, dtype=torch.int64)
        if "mode" in call:
            call["data_samples"] = [pointsuite.datasets.PointDataSample(gt_label=label) for label in labels]
        elif getattr(model, "num_categories", 1) > 1:
            call["category"] = labels
    else:
        height, *width = size or [224]
        inputs = example_images(model, args.batch, (height, *(width or [height])))
        if "mode" in call and cfg.get("default_scope") == "mmdet":
            call["data_samples"] = detection_samples(inputs)
    forward: Callable = lambda: model(inputs, **call)  # noqa: E731
    return model, forward, tuple(inputs.shape)


def example_images(model, batch: int, size: tuple[int, int]):
    """What a model of images takes; those of tasks with inputs of their own know it."""
    import torch

    if hasattr(model, "example_inputs"):
        return model.example_inputs(batch, size)
    return torch.randn(batch, 3, *size)


def build_config(path: str, options: dict) -> tuple:
    """The model of a config file, and the config."""
    from mmengine.registry import MODELS, init_default_scope

    args = command.build_parser("").parse_args([path])
    args.cfg_options = options
    cfg = command.load_config(args)
    init_default_scope(cfg.get("default_scope", "mmengine"))
    return MODELS.build(cfg.model), cfg


def detection_samples(inputs) -> list:
    """What detectors want to know of their images."""
    from mmdet.structures import DetDataSample

    height, width = inputs.shape[2:]
    sizes = dict.fromkeys(("img_shape", "ori_shape", "pad_shape", "batch_input_shape"), (height, width))
    return [DetDataSample(metainfo={**sizes, "scale_factor": (1.0, 1.0)}) for _ in inputs]


if __name__ == "__main__":
    command.run(main)
