"""Convert published weights to this project's.

Examples:
    python tools/convert_checkpoint.py PUBLISHED.pth                     # finds out whose they are
    python tools/convert_checkpoint.py davit_tiny PUBLISHED.pth OUT.pth
    python tools/convert_checkpoint.py risurconv_cls PUBLISHED.pth OUT.pth --model-args num_classes=40 width=2
    python tools/convert_checkpoint.py PUBLISHED.pth OUT.pth --deploy    # branches and norms merged

The file written can be given to ``create_model(MODEL, pretrained=OUT)``, to the predictors or, where MODEL is
a config, to ``tools/test.py``. The converted weights must fit the model exactly.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pointsuite.engine import command
from pointsuite.engine.errors import UsageError

if TYPE_CHECKING:
    from torch import nn


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.Parser(description=__doc__)
    parser.add_argument(
        "files",
        nargs="+",
        metavar="[MODEL] FILE [OUT]",
        help="MODEL: name in a zoo, or config of a run; found out by default. FILE: of the authors. OUT: to "
        "write, by default FILE with the model's name, beside it",
    )
    parser.add_argument(
        "--model-args",
        nargs="+",
        action=command.KeyValue,
        default={},
        metavar="KEY=VALUE",
        help="arguments of MODEL, as num_classes=40",
    )
    parser.add_argument(
        "--deploy", action="store_true", help="merge branches and norms into convolutions (deploy=True)"
    )
    args = parser.parse_args(argv)
    import pointsuite
    from dense.base import BaseBackbone
    from dense.layers import mergeable_layers, switch_to_deploy
    from dense.registry import ZOO
    from pointsuite.engine.checkpoint import (
        CheckpointError,
        find_state_dict,
        load_checkpoint,
        save_checkpoint,
        sha256,
    )
    from pointsuite.engine.zoo import ZOO as CLOUD_ZOO
    from pointsuite.engine.zoo import convert_for, load_converted

    name, file, out = split_files(args.files)
    # only the weights are kept: a logged accuracy, often NumPy's, may be in the file
    published = find_state_dict(load_checkpoint(file, numpy_numbers=True), file)
    options: dict[str, Any] = args.model_args
    if name is None:
        if options:
            raise UsageError("--model-args belong to a MODEL, found none")
        found = (CLOUD_ZOO if CLOUD_ZOO.knows(published) else ZOO).identify(published, file)
        name, options = found.name, found.options
        print(f"{file}: {name}" + "".join(f", {key}={value}" for key, value in options.items()))
    try:
        model = build(name, options)
    except (TypeError, ValueError) as error:
        raise UsageError(error) from error
    try:
        converted = convert_for(model, published)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from error
    if converted is None:
        raise UsageError(f"{name} has no convert_official: its published weights cannot be read")
    trunk = getattr(model, "backbone", model)
    if isinstance(trunk, BaseBackbone) and not trunk.deploy and trunk.is_merged(converted):
        options = {**options, "deploy": True}
        model = build(name, options)
    load_converted(model, converted, file)
    if args.deploy and not options.get("deploy"):
        if name.endswith(".py"):
            raise UsageError(f"--deploy wants a model of a zoo, found {name}: give its backbone deploy=True")
        if not mergeable_layers(model):
            raise UsageError(f"--deploy: {name} has no branches or norms to merge")
        merged = len(mergeable_layers(model))
        switch_to_deploy(model)
        options = {**options, "deploy": True}
        print(f"merged: branches and norms of {merged} layers")
    out = out or str(Path(file).with_name(f"{Path(file).stem}-{name}.pth"))
    if Path(out).resolve() == Path(file).resolve():
        raise UsageError(f"{out}: is the published file, wanted another one to write")

    kept = {tensor.untyped_storage().data_ptr() for tensor in converted.values()}
    dropped = [key for key, tensor in published.items() if tensor.untyped_storage().data_ptr() not in kept]
    meta = {
        "model": name,
        "model_args": options,
        "published": Path(file).name,
        "published_sha256": sha256(file),
        "version": pointsuite.__version__,
    }
    save_checkpoint({"state_dict": model.state_dict(), "meta": meta}, out)
    print(f"{out}: {name}, {sum(parameter.numel() for parameter in model.parameters()):,} parameters")
    print(f"dropped or merged: {', '.join(dropped) or 'nothing'}")
    print(f"sha256 {sha256(out)}")


def split_files(files: Sequence[str]) -> tuple[str | None, str, str | None]:
    """Model, published file and file to write."""
    if len(files) > 3:
        raise UsageError(f"found {len(files)} names, wanted [MODEL] FILE [OUT]")
    if len(files) == 3:
        return files[0], files[1], files[2]
    if len(files) == 2 and not Path(files[0]).is_file() or files[0].endswith(".py"):
        return files[0], files[-1], None
    return None, files[0], files[1] if len(files) == 2 else None


def build(name: str, options: dict) -> "nn.Module":
    import dense
    import pointsuite
    from pointsuite.engine.zoo import ZOO as CLOUD_ZOO

    if name.endswith(".py"):
        return command.build_model(command.read_config(name), **options)
    return (pointsuite if name in CLOUD_ZOO else dense).create_model(name, **options)


if __name__ == "__main__":
    command.run(main)
