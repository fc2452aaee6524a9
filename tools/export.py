"""Export the network of a trained model, to run it without this project.

Examples:
    python tools/export.py work_dirs/risurconv-s_kicad --out network.onnx
    python tools/export.py configs/shvit/shvit-s1_fashion-mnist.py work_dirs/mine --out network.pt2

Of images, clips and pairs the input is `images`, normalised as the config's data_preprocessor does; the batch
is free, and the size where the network's maths allows it, which is said. Outputs are what the network gives
before any decision: logits, restored images, flow and confidence, a detector's maps of scores and boxes.

Of clouds the inputs are their geometry, features_0 float32 (B, S, K, 14), idx_0 int64 (B, S, K) and so on for
every layer, which `network.geometry(points)` computes, or, where a network has no geometry apart, points
(B, N, 6); a part segmenter of several categories also gets category int64 (B,). B is free.

``.pt2`` is a file of torch.export; its module takes one dict of the inputs. ``.onnx`` needs the packages onnx
and onnxscript. What was written is compared with the network, for ONNX where onnxruntime is installed.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from pointsuite.engine import command
from pointsuite.engine.errors import UsageError, one_line


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.build_parser(__doc__)
    parser.add_argument(
        "checkpoint",
        nargs="?",
        help="a path, a work dir (its last checkpoint), or a URL with its digest (#sha256=...); none where a "
        "work dir stands in place of the config",
    )
    parser.add_argument("--out", required=True, type=Path, help="file to write: .onnx or .pt2")
    parser.add_argument(
        "--size",
        nargs="+",
        type=command.whole(1),
        metavar="N",
        help="of images, H or H W (default: as in the config's test)",
    )
    args = parser.parse_args(argv)
    kind = args.out.suffix
    if kind not in (".onnx", ".pt2"):
        raise UsageError(f"--out {args.out}: found the suffix {kind!r}, wanted .onnx or .pt2")
    if missing := [name for name in ("onnx", "onnxscript") if kind == ".onnx" and not find_spec(name)]:
        raise UsageError(f"--out {args.out} needs {' and '.join(missing)}: pip install .[export]")
    if args.size and len(args.size) > 2:
        raise UsageError(f"--size: found {len(args.size)} numbers, wanted H or H W")
    import dense  # noqa: F401  before mmcv, mmdet and mmseg, which need its operators

    cfg = command.load_config(args)
    if args.checkpoint is None:
        raise UsageError(f"{args.config}: found no checkpoint, wanted one, or a work dir")
    export = export_clouds if cfg.get("default_scope") == "pointsuite" else export_images
    export(cfg, args, load_model(cfg, args.checkpoint))


def load_model(cfg, checkpoint: str):
    from mmengine.model import revert_sync_batchnorm

    from pointsuite.engine.checkpoint import find_checkpoint, find_state_dict, load_checkpoint
    from pointsuite.engine.predictor import load_weights

    path = find_checkpoint(checkpoint)
    state = find_state_dict(load_checkpoint(path), str(path))
    model = revert_sync_batchnorm(command.build_model(cfg))
    load_weights(model, state, str(path))
    return model


def export_clouds(cfg, args, model) -> None:
    from pointsuite.engine import export
    from pointsuite.export import NetworkPart, read_batches
    from pointsuite.registry import DATASETS

    if cfg.get("test_dataloader") is None:
        raise UsageError(f"{args.config}: has no 'test_dataloader', wanted a config with a test")
    part = NetworkPart(model.network)
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    batches = list(read_batches(part, dataset))
    free = {name: {0: "B"} for name in batches[0]}
    program = export.trace(part, batches[0], free={name: {0: export.BATCH} for name in batches[0]})
    finish(args.out, part, program, free, batches, dataset.metainfo["classes"])


def export_images(cfg, args, model) -> None:
    from dense.base.export import find_size, make_examples
    from pointsuite.engine import export

    if cfg.get("default_scope") == "mmdet":
        from dense.detection.export import make_part
    else:
        from dense.base.export import make_part

    part = make_part(model)
    size = args.size and (args.size[0], args.size[-1]) or find_size(cfg)
    examples = make_examples(model, size)
    rank = examples(1, 1)["images"].ndim
    guarded = args.out.suffix == ".pt2"
    program, free = export.trace_freely(part, examples, (rank - 2, rank - 1), guarded)
    batches = [examples(count, 1) for count in ((2, 1, 3) if 0 in free["images"] else (1,))]
    if len(free["images"]) == 3:
        batches.append(examples(1, 2))
    classes = ((cfg.get("test_dataloader") or {}).get("dataset") or {}).get("metainfo", {}).get("classes", ())
    finish(args.out, part, program, free, batches, classes)


def finish(out: Path, part, program, free, batches, classes) -> None:
    """Write the program, say what it takes, and compare it with the network."""
    from pointsuite.engine import export

    wanted = [part(inputs) for inputs in batches]
    outputs = part.name_outputs(len(wanted[0]))
    export.write(program, batches[0], out, classes=classes, outputs=outputs, free=free)
    shapes = {
        name: tuple(free[name].get(i, length) for i, length in enumerate(value.shape))
        for name, value in batches[0].items()
    }
    listed = ", ".join(f"{name} ({', '.join(map(str, shape))})" for name, shape in shapes.items())
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, inputs {listed}, outputs {', '.join(outputs)}")
    try:
        runs = export.load(program, out, outputs)
    except Exception as error:
        out.unlink()
        raise UsageError(f"{out}: was not readable, and removed: {one_line(error)}") from error
    for name, run in runs.items():
        found = [run(inputs) for inputs in batches]
        worst = max(
            (export.difference(*pair) for pair in zip(found, wanted, strict=True)),
            key=lambda value: float("inf") if value != value else value,
        )
        sizes = [len(next(iter(inputs.values()))) for inputs in batches]
        print(f"{name}: differs by at most {worst:.1e} in batches of {sizes}")
        if not worst <= export.TOLERANCE:  # NaN, too
            out.unlink()
            raise UsageError(
                f"{out}: {name} differs from the network by {worst:.1e}, wanted at most {export.TOLERANCE}; "
                "the file was removed"
            )


if __name__ == "__main__":
    command.run(main)
