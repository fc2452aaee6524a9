"""Export the network part of a trained model of point clouds, to run it without this project.

Examples:
    python tools/export.py configs/risurconv/risurconv-s_kicad.py work_dirs/mine --out network.onnx
    python tools/export.py configs/risurconv/risurconv-s_kicad.py work_dirs/mine --out network.pt2

The inputs are the geometry of the clouds, features_0 float32 (B, S, K, 14), idx_0 int64 (B, S, K) and so on
for every layer, and for a part segmenter of several categories also category int64 (B,); B is free. Geometry
stays outside: it is what `network.geometry(points)` computes. ``.pt2`` is a file of torch.export; its module
takes one dict of the inputs. ``.onnx`` needs the packages onnx and onnxscript. What was written is compared
with the network on clouds of the test data, in the case of ONNX where onnxruntime is installed.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from pointsuite.engine import command
from pointsuite.engine.errors import UsageError

TOLERANCE = 1e-4


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.build_parser(__doc__)
    parser.add_argument(
        "checkpoint", help="a path, a work dir (its last checkpoint), or a URL with its digest (#sha256=...)"
    )
    parser.add_argument("--out", required=True, type=Path, help="file to write: .onnx or .pt2")
    args = parser.parse_args(argv)
    kind = args.out.suffix
    if kind not in (".onnx", ".pt2"):
        raise UsageError(f"--out {args.out}: found the suffix {kind!r}, wanted .onnx or .pt2")
    if missing := [name for name in ("onnx", "onnxscript") if kind == ".onnx" and not find_spec(name)]:
        raise UsageError(f"--out {args.out} needs {' and '.join(missing)}: pip install .[export]")
    import torch

    from pointsuite.engine.checkpoint import find_checkpoint
    from pointsuite.export import BATCHES, build_part, load, read_batches, trace, write
    from pointsuite.registry import DATASETS

    cfg = command.load_config(args)
    if cfg.get("test_dataloader") is None:
        raise UsageError(f"{args.config}: has no 'test_dataloader', wanted a config with a test")

    part = build_part(cfg, find_checkpoint(args.checkpoint))
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    batches = list(read_batches(part, dataset))
    program = trace(part, batches[0])
    write(program, batches[0], dataset.metainfo["classes"], args.out)
    names = ", ".join(f"{name} {tuple(value.shape[1:])}" for name, value in batches[0].items())
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB, inputs (B, ...): {names}")
    for name, run in load(program, args.out).items():
        difference = (
            torch.stack([(run(inputs) - part(inputs)).abs().max() for inputs in batches]).max().item()
        )
        print(f"{name}: differs by at most {difference:.1e} on {sum(BATCHES)} clouds in batches of {BATCHES}")
        if not difference <= TOLERANCE:  # NaN, too
            args.out.unlink()
            raise UsageError(
                f"{args.out}: {name} differs from the network by {difference:.1e}, wanted at most "
                f"{TOLERANCE}; the file was removed"
            )


if __name__ == "__main__":
    command.run(main)
