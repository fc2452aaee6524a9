"""Convert published weights: ``python tools/convert_checkpoint.py MODEL PUBLISHED OUT [--model-args K=V]``.

OUT can be given to ``create_model(MODEL, pretrained=OUT)`` or, where MODEL is a config, to ``tools/test.py``.
The converted weights must fit the model exactly.
"""

from collections.abc import Sequence
from pathlib import Path

from mmengine.registry import MODELS, DefaultScope
from torch import nn

import dense
import pointsuite
from dense.backbones import Backbone
from pointsuite.engine import command
from pointsuite.engine.checkpoint import (
    CheckpointError,
    find_state_dict,
    load_checkpoint,
    load_state_dict,
    save_checkpoint,
    sha256,
    strip_prefix,
)


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.Parser(description="Convert published weights to this project's.")
    parser.add_argument("model", help="name of the model, of pointsuite or dense, or the config of a run")
    parser.add_argument("published", help="file of the authors")
    parser.add_argument("out", help="file to write")
    parser.add_argument(
        "--model-args",
        nargs="+",
        action=command.KeyValue,
        default={},
        metavar="KEY=VALUE",
        help="arguments of the model, as num_classes=40",
    )
    args = parser.parse_args(argv)
    try:
        model = build(args.model, args.model_args)
    except (TypeError, ValueError) as error:
        raise command.UsageError(error) from error
    # of MMDetection's detectors, a head of ours can read the whole
    parts = (model, getattr(model, "bbox_head", None))
    converter = next((part for part in parts if hasattr(part, "convert_official")), None)
    if converter is None:
        raise command.UsageError(
            f"{args.model} has no convert_official: its published weights cannot be read"
        )

    # only the weights are kept: a logged accuracy, often NumPy's, may be in the file
    published = find_state_dict(load_checkpoint(args.published, numpy_numbers=True), args.published)
    converted = converter.convert_official(dict(published))
    if isinstance(model, Backbone):  # alone (features_only=True): no head
        bare = {key: value for key, value in converted.items() if key.startswith("backbone.")}
        converted = strip_prefix(bare, "backbone.")
    load_state_dict(model, converted, name=args.published)
    kept = {tensor.untyped_storage().data_ptr() for tensor in converted.values()}
    dropped = [key for key, tensor in published.items() if tensor.untyped_storage().data_ptr() not in kept]
    meta = {
        "model": args.model,
        "model_args": args.model_args,
        "published": Path(args.published).name,
        "published_sha256": sha256(args.published),
        "version": pointsuite.__version__,
    }
    save_checkpoint({"state_dict": model.state_dict(), "meta": meta}, args.out)

    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{args.out}: {args.model}, {parameters:,} parameters")
    print(f"dropped or merged: {', '.join(dropped) or 'nothing'}")
    print(f"sha256 {sha256(args.out)}")


def build(name: str, options: dict) -> nn.Module:
    if not name.endswith(".py"):
        library = dense if name in dense.list_models() else pointsuite
        return library.create_model(name, **options)
    cfg = command.load_config(command.build_parser("").parse_args([name]))
    with DefaultScope.overwrite_default_scope(cfg.get("default_scope", "mmengine")):
        return MODELS.build({**cfg.model, **options})


if __name__ == "__main__":
    command.run(main, CheckpointError)
