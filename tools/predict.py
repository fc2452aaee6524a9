"""Predict files with trained weights: shipped ones, or those of a run of any task.

Examples:
    python tools/predict.py part.ply                        # names of classes, by the shipped classifier
    python tools/predict.py part.ply --model risurconv_s_partseg --options category=dip --out found
    python tools/predict.py photographs --model edsr_s --out larger
    python tools/predict.py street.png --config work_dirs/shvit-s1_fpn_camvid-small --out found
    python tools/predict.py shapes --checkpoint work_dirs/mine/epoch_30.pth --out answers.json

An INPUT is a file that the task reads (a cloud or mesh, a shape FILE.h5:SPLIT:INDEX, an image, a video, a
text), or a folder of such; of matching, INPUTs are pairs. Each gives one line. --out FILE.json keeps all that
was found; --out FOLDER also the parts of each point, pictures, restored images, as the task has them.
"""

import sys
from collections.abc import Sequence
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from pointsuite.engine import command
from pointsuite.engine.errors import UsageError, nearest

DEFAULT = "risurconv_s"
# where a model's class, or one that it inherits from, is defined -> who predicts with it
PREDICTORS = {
    "pointsuite.models.part_segmenter": ("pointsuite.predictor", "PartSegmenter"),
    "pointsuite.models.risurconv_partseg": ("pointsuite.predictor", "PartSegmenter"),
    "pointsuite.models": ("pointsuite.predictor", "Classifier"),
    "dense.classification": ("dense.classification", "Classifier"),
    "dense.base": ("dense.classification", "Classifier"),
    "dense.detection": ("dense.detection.predictor", "DetInferencer"),
    "mmdet": ("dense.detection.predictor", "DetInferencer"),
    "dense.segmentation": ("dense.segmentation.predictor", "Segmenter"),
    "mmseg": ("dense.segmentation.predictor", "Segmenter"),
    "dense.restoration": ("dense.restoration", "Restorer"),
    "dense.matching": ("dense.matching", "Matcher"),
    "dense.video": ("dense.video", "AnomalyScorer"),
    "dense.gaze": ("dense.gaze", "ScanpathPredictor"),
    "dense.sequence.answering": ("dense.sequence", "Answerer"),
    "dense.sequence": ("dense.sequence", "Generator"),
}
SAID = {"config", "checkpoint", "device", "weights", "model", "progress", "show_progress"}  # by other options


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.Parser(description=__doc__)
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="files and folders")
    parser.add_argument("--model", metavar="NAME", help=f"whose weights are shipped (default: {DEFAULT})")
    parser.add_argument("--config", help="of a run, or its work dir, in place of a model")
    parser.add_argument(
        "--checkpoint",
        help="weights for the config; or, alone, of a run or of tools/publish.py: a path, or a URL with its "
        "digest (#sha256=...)",
    )
    parser.add_argument(
        "--weights",
        metavar="random",
        help="another name of --checkpoint; 'random' for weights as the config initialises them",
    )
    parser.add_argument("--out", type=Path, metavar="PATH", help="FILE.json, or a folder")
    parser.add_argument("--device", help="(default: a GPU where there is one)")
    parser.add_argument(
        "--options",
        nargs="+",
        action=command.KeyValue,
        default={},
        metavar="KEY=VALUE",
        help="of the task's predictor or of its call, as category=dip, columns='x y z', tile=128, length=300",
    )
    args = parser.parse_args(argv)
    if args.model and (args.config or args.checkpoint or args.weights):
        raise UsageError(f"found --model {args.model} and a config or a checkpoint, wanted one of them")
    if args.checkpoint and args.weights:
        raise UsageError(f"found --checkpoint {args.checkpoint} and --weights, wanted one of them")
    import dense  # noqa: F401  before mmcv, mmdet and mmseg, which need its operators

    source, weights, cls = find_source(args)
    building, calling = split_options(cls, args.options)
    if sys.stdout.isatty():
        building["progress"] = False  # a bar would lie among the lines
    predictor = cls(source, device=args.device, weights=weights, **building)

    to_json = args.out is not None and args.out.suffix.lower() == ".json"
    records, folder = [], None if to_json else args.out
    for answer in predictor.answer(args.inputs, folder, **calling):
        written = "".join(f" -> {path}" for path in answer.files[:1])
        print(f"{answer.source}: {answer.line}{written}", flush=True)
        records.append({**answer.record, **({"files": [*map(str, answer.files)]} if answer.files else {})})
    if to_json:
        write_json(args.out, predictor, records)
    elif args.out is not None and answer.files != [args.out]:  # a restored image
        write_json(args.out / "predictions.json", predictor, records)


def find_source(args) -> tuple[Any, str | None, type]:
    """What a predictor is made of, its weights where these are not that, and its class."""
    from dense.registry import ZOO
    from pointsuite.engine.checkpoint import load_checkpoint
    from pointsuite.engine.config import find_run_config
    from pointsuite.engine.predictor import is_config, read_config
    from pointsuite.engine.zoo import ZOO as CLOUD_ZOO

    weights = args.weights or args.checkpoint
    if (source := args.config or weights) is not None:
        if "://" not in source and Path(source).is_dir():
            cfg = read_config(find_run_config(source))
            return cfg, weights or source, find_predictor(cfg)
        if is_config(source):
            cfg = read_config(source)
            return cfg, weights, find_predictor(cfg)
        if args.config is not None:
            raise UsageError(
                f"--config {source}: found no config (.py) or work dir; weights are --checkpoint"
            )
        content = load_checkpoint(source)
        meta = content.get("meta") if isinstance(content, dict) else None
        return source, None, find_predictor_of(meta or {}, source)
    name = args.model or DEFAULT
    for zoo in (CLOUD_ZOO, ZOO):
        if card := zoo.find_card(name):
            return card.path, None, find_predictor_of({"model": {"type": card.model}}, name)
    shipped = [*CLOUD_ZOO.list_models(pretrained=True), *ZOO.list_models(pretrained=True)]
    raise UsageError(f"--model {name}: its weights are not shipped, as those of {', '.join(shipped)} are")


def find_predictor(cfg) -> type:
    """The predictor of a config's task.

    Raises:
        UsageError: its model is of none.
    """
    from dense.registry import MODELS
    from pointsuite.registry import MODELS as CLOUD_MODELS

    scope, cls = cfg.get("default_scope"), cfg.model.type
    if scope in ("mmdet", "mmseg"):
        return load_predictor(scope)
    if isinstance(cls, str):
        cls = (MODELS if scope == "dense" else CLOUD_MODELS).get(cls)
    if cls is None:
        raise UsageError(f"{cfg.filename}: model.type: found {cfg.model.type!r}, which is not registered")
    return find_predictor_of_class(cls, str(cfg.filename))


def find_predictor_of(meta: dict, source: str) -> type:
    """The predictor of what a checkpoint says of itself.

    Raises:
        UsageError: it says nothing, or what is not known here.
    """
    from dense.registry import MODELS, ZOO
    from pointsuite.engine.zoo import ZOO as CLOUD_ZOO
    from pointsuite.registry import MODELS as CLOUD_MODELS

    said = meta.get("model")
    name = said.get("type") if isinstance(said, dict) else said
    for registry, zoo in ((CLOUD_MODELS, CLOUD_ZOO), (MODELS, ZOO)):
        if isinstance(said, str) and said in zoo:
            return find_predictor_of_class(zoo.find_system(said)[0], source)
        registry.import_from_location()
        if isinstance(said, dict) and (cls := registry.module_dict.get(str(name).rpartition(".")[2])):
            return find_predictor_of_class(cls, source)
    raise UsageError(f"{source}: does not say of which network it is; wanted --config, too")


def find_predictor_of_class(cls: type, source: str) -> type:
    for parent in cls.__mro__:
        parts = parent.__module__.split(".")
        for length in range(len(parts), 0, -1):
            if (place := ".".join(parts[:length])) in PREDICTORS:
                return load_predictor(place)
    raise UsageError(f"{source}: nothing predicts files with a {cls.__name__}")


def load_predictor(place: str) -> type:
    from importlib import import_module

    module, name = PREDICTORS[place]
    return getattr(import_module(module), name)


def split_options(cls: type, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Those of a predictor's making, and of its calls.

    Raises:
        UsageError: one is of neither.
    """
    making = set(signature(cls).parameters) - SAID
    parameters = list(signature(cls.__call__).parameters.values())[2:]
    calling = {parameter.name for parameter in parameters} - {cls.target}
    open_ended = any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters)
    known = sorted(making | calling - {"options", "kwargs"})
    for key in options:
        if key not in making and key not in calling and not open_ended:
            hint = nearest(key, known, f"; it has {', '.join(known)}")
            raise UsageError(f"--options {key}: {cls.__name__} has no such option{hint}")
    return (
        {key: value for key, value in options.items() if key in making},
        {key: value for key, value in options.items() if key not in making},
    )


def write_json(path: Path, predictor: Any, records: list[dict]) -> None:
    """Keep what was found, and by what."""
    import json

    from pointsuite.engine.checkpoint import atomic_write

    said = {"weights": predictor.checkpoint and Path(predictor.checkpoint).name, "predictions": records}
    with atomic_write(path) as file:
        file.write((json.dumps(said, indent=2, ensure_ascii=False) + "\n").encode())
    print(f"{path}: {len(records)} predictions")


if __name__ == "__main__":
    command.run(main)
