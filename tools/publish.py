"""Publish the weights of a run: stripped, as safetensors, named by their hash, with a card.

Examples:
    python tools/publish.py work_dirs/risurconv-s_kicad risurconv_s_cls --data "KiCad shapes, data/kicad" \\
        --data-licence CC-BY-SA-4.0 --licence CC-BY-SA-4.0 --out published
    python tools/publish.py work_dirs/mine mine --data "my shapes" --data-licence none --licence MIT --no-test

What is written is NAME-1a2b3c4d.safetensors, with the weights (averaged ones, where the run had any), the
test pipeline and the names of the classes, and NAME-1a2b3c4d.json, the card: data, licences, command, seed,
digest, and the results of a test of the written file. Answers:

    pointsuite predict INPUT --checkpoint published/NAME-1a2b3c4d.safetensors
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pointsuite.engine import command


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.Parser(description=__doc__)
    parser.add_argument("run", metavar="RUN", help="work dir of a training run")
    parser.add_argument("name", metavar="NAME", help="of the model in its zoo, or any other")
    parser.add_argument("--checkpoint", help="in place of the run's last one")
    parser.add_argument("--data", required=True, metavar="TEXT", help="what it was trained on")
    parser.add_argument("--data-licence", required=True, metavar="TEXT", help="of the data")
    parser.add_argument("--licence", required=True, metavar="TEXT", help="of the weights")
    parser.add_argument("--out", type=Path, default=Path("."), metavar="DIR", help="(default: here)")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=command.KeyValue,
        default={},
        metavar="KEY=VALUE",
        help="override the config of the test, as where the data are",
    )
    parser.add_argument("--no-test", action="store_true", help="leave results out")
    parser.add_argument(
        "--samples",
        type=command.whole(0),
        default=16,
        metavar="N",
        help="of the test data whose results are noted apart, for a quick check (default: 16)",
    )
    args = parser.parse_args(argv)
    import dense  # noqa: F401  before mmcv, mmdet and mmseg, which need its operators
    from pointsuite.engine.checkpoint import find_checkpoint, sha256
    from pointsuite.engine.config import find_run_config
    from pointsuite.engine.pretrained import Card
    from pointsuite.engine.publishing import describe_training, library_versions, write_card, write_weights

    file = find_run_config(args.run) if Path(args.run).is_dir() else Path(args.run)
    cfg = command.read_config(file, args.cfg_options)
    if not args.no_test:
        command.check_test(cfg, str(file))
    path, meta = write_weights(find_checkpoint(args.checkpoint or args.run), args.name, args.out)
    try:
        parameters = count_parameters(args.name, path, cfg)
        origin, training = describe_training(command.read_config(file), file, meta)
        results, sampled = ({}, {}) if args.no_test else test(cfg, path, args.samples)
        config = f"configs/{origin}" if "/" in origin else origin
        classes = meta.get("dataset_meta", {}).get(getattr(model_class(cfg), "classes_key", "classes"), ())
        card = Card(
            name=args.name,
            file=path.name,
            sha256=sha256(path),
            model=meta["model"]["type"],
            parameters=parameters,
            classes=tuple(classes),
            config=origin,
            command=training,
            test=f"python tools/test.py {config} {path.name if args.out.is_absolute() else path}",
            seed=meta.get("seed"),
            epoch=meta.get("epoch"),
            data=args.data,
            data_licence=args.data_licence,
            licence=args.licence,
            results=results,
            sampled=sampled,
            versions=library_versions(),
            folder=args.out,
        )
        print(f"{write_card(card)}: {args.name}, {parameters:,} parameters")
    except BaseException:
        path.unlink()  # weights without a card are no publication
        raise
    for key, value in results.items():
        print(f"{key}: {value:.4f}")
    print(f"{path}: {path.stat().st_size:,} bytes, sha256 {card.sha256}")


def model_class(cfg) -> type | None:
    from mmengine.registry import MODELS, DefaultScope

    with DefaultScope.overwrite_default_scope(cfg.get("default_scope", "mmengine")):
        return MODELS.get(cfg.model.type)


def count_parameters(name: str, path: Path, cfg) -> int:
    """Of the network; where a zoo has the name, its model must take the weights.

    Raises:
        CheckpointError: it does not.
    """
    from dense.registry import ZOO
    from pointsuite.engine.zoo import ZOO as CLOUD_ZOO

    zoo = next((zoo for zoo in (CLOUD_ZOO, ZOO) if name in zoo), None)
    if zoo is not None:
        model = zoo.create_model(name, pretrained=path)
    else:
        model = command.build_model(cfg)
        model = getattr(model, "network", model)
    return sum(parameter.numel() for parameter in model.parameters())


def test(cfg, path: Path, count: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Results of the whole test, and of a few samples that lie evenly among its data."""
    from pointsuite.engine.publishing import sample_indices

    results, size = run_test(cfg, path)
    dataset = cfg.test_dataloader.dataset
    if not count or dataset.get("indices") is not None:
        return results, {}
    dataset.indices = indices = sample_indices(size, count)
    try:
        found, _ = run_test(cfg, path)
    except TypeError:  # data that cannot be divided
        return results, {}
    return results, {"indices": indices, "results": found}


def run_test(cfg, path: Path) -> tuple[dict[str, float], int]:
    """Numbers among the results of a test, and the size of its data."""
    with tempfile.TemporaryDirectory() as place:
        cfg.work_dir, cfg.load_from, cfg.resume = place, str(path), False
        runner = command.build_runner(cfg)
        found = runner.test()
        size = len(runner.test_dataloader.dataset)
    return {key: float(value) for key, value in found.items() if isinstance(value, int | float)}, size


if __name__ == "__main__":
    command.run(main)
