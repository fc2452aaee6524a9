"""Convert published weights: ``python tools/convert_checkpoint.py MODEL PUBLISHED OUT [--model-args K=V]``.

OUT can be given to ``create_model(MODEL, pretrained=OUT)``. The converted weights must fit the model exactly.
"""

from collections.abc import Sequence
from pathlib import Path

import dense
import pointsuite
from pointsuite.engine import command
from pointsuite.engine.checkpoint import (
    CheckpointError,
    find_state_dict,
    load_checkpoint,
    load_state_dict,
    save_checkpoint,
    sha256,
)


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.Parser(description="Convert published weights to this project's.")
    parser.add_argument("model", help="name of the model, of pointsuite or dense")
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
    library = dense if args.model in dense.list_models() else pointsuite
    try:
        model = library.create_model(args.model, **args.model_args)
    except (TypeError, ValueError) as error:
        raise command.UsageError(error) from error
    if not hasattr(model, "convert_official"):
        raise command.UsageError(
            f"{args.model} has no convert_official: its published weights cannot be read"
        )

    # only the weights are kept: a logged accuracy, often NumPy's, may be in the file
    published = find_state_dict(load_checkpoint(args.published, numpy_numbers=True), args.published)
    converted = model.convert_official(dict(published))
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


if __name__ == "__main__":
    command.run(main, CheckpointError)
