"""Test a checkpoint as a config describes.

Examples:
    python tools/test.py configs/risurconv/risurconv-s_kicad.py work_dirs/risurconv-s_kicad --protocols
    python tools/test.py configs/ufc/ufc-tiny_warps_pf-willow.py ufc.pth --show-dir pictures

On several GPUs or in several processes: tools/dist_test.sh.
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from pointsuite.engine import command
from pointsuite.engine.errors import UsageError

DRAWING_HOOKS = {  # by default_scope
    "mmseg": {"type": "SegVisualizationHook", "draw": True},
    "mmdet": {"type": "DetVisualizationHook", "draw": True},
    "dense": {"type": "DrawingHook"},
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.build_parser(__doc__)
    parser.add_argument(
        "checkpoint",
        nargs="?",
        help="a path, a work dir (its last checkpoint), or a URL with its digest (#sha256=...); none for "
        "networks without parameters, or where a work dir stands in place of the config",
    )
    parser.add_argument(
        "--weights",
        metavar="random",
        help="another name of CHECKPOINT; 'random' for weights as the config initialises them",
    )
    parser.add_argument(
        "--protocols",
        action="store_true",
        help="test a classifier of clouds under z/z, z/SO3 and SO3/SO3 and draw its predictions; a network "
        "that is not invariant to rotation, under those that it was trained for",
    )
    parser.add_argument(
        "--so3-checkpoint", help="with --protocols: a second network, trained under SO(3), for SO3/SO3"
    )
    parser.add_argument(
        "--num-rotations", type=command.whole(1), default=3, help="rotations of each shape (default: 3)"
    )
    parser.add_argument(
        "--parts",
        action="store_true",
        help="draw a part segmenter's parts of some shapes, beside the true ones",
    )
    parser.add_argument(
        "--show-dir", metavar="DIR", help="draw what is found in the test's images, beside what is there"
    )
    command.add_report_option(parser)
    args = parser.parse_args(argv)
    import dense  # noqa: F401  before mmcv, mmdet and mmseg, which need its operators
    from pointsuite.engine.checkpoint import find_checkpoint
    from pointsuite.engine.predictor import check_weights

    random = args.weights == "random"
    if args.so3_checkpoint and not args.protocols:
        raise UsageError(f"--so3-checkpoint {args.so3_checkpoint} is for --protocols, which is not there")
    if args.weights and args.checkpoint:
        raise UsageError(f"found {args.checkpoint} and --weights {args.weights}, wanted one of them")
    cfg = command.load_config(args)
    command.check_test(cfg, args.config)
    source = args.checkpoint if random else args.weights or args.checkpoint
    cfg.load_from = source and find_checkpoint(source)
    cfg.resume = False
    if cfg.load_from is None and (args.protocols or args.parts):
        raise UsageError("--protocols and --parts want a checkpoint")
    if args.show_dir:
        draw_images(cfg, args.show_dir)
    if args.protocols:
        test_protocols(cfg, args)
    else:
        runner = command.build_runner(cfg)
        if cfg.load_from is None:
            if not random:
                check_weights(runner.model, args.config, "--weights random")
            runner.model.init_weights()
        runner.test()
        if args.parts:
            draw_test_parts(runner)


def draw_images(cfg, folder: str) -> None:
    """Let the library of the config draw every image that is tested."""
    hook = DRAWING_HOOKS.get(cfg.get("default_scope"))
    if hook is None:
        raise UsageError(
            f"--show-dir: the config's default_scope is {cfg.get('default_scope')!r}, wanted one of "
            f"{', '.join(DRAWING_HOOKS)}"
        )
    cfg.custom_hooks = [*cfg.get("custom_hooks", []), dict(hook)]
    from pointsuite.visualization.samples import CAPTIONED

    captioned = CAPTIONED.get(cfg.visualizer.type, cfg.visualizer.type)
    if captioned != cfg.visualizer.type:
        import_module(f"dense.{'detection' if captioned.startswith('mmdet') else 'segmentation'}")
    cfg.visualizer.type = captioned
    cfg.visualizer.update(save_dir=folder, vis_backends=[{"type": "LocalVisBackend"}])


def draw_test_parts(runner, count: int = 18) -> None:
    import numpy as np
    from mmengine.dataset import pseudo_collate

    from pointsuite.visualization import draw_parts

    dataset = runner.test_dataloader.dataset
    chosen = np.random.default_rng(0).permutation(len(dataset))[:count]
    batch = pseudo_collate([dataset[int(i)] for i in chosen])
    samples = [sample.cpu() for sample in runner.model.test_step(batch)]
    out = draw_parts(
        [points.numpy() for points in batch["inputs"]],
        [sample.gt_part.numpy() for sample in samples],
        [sample.pred_part.numpy() for sample in samples],
        [dataset.metainfo["classes"][int(sample.gt_label)] for sample in samples],
        Path(runner.work_dir) / "parts.png",
        part_classes=dataset.metainfo["part_classes"],
        up=dataset.metainfo["up"],
        heading=f"{len(samples)} shapes of {len(dataset)}, chosen at random: true parts, predicted parts",
    )
    print(f"pictures of parts: {out}")


def test_protocols(cfg, args) -> None:
    import numpy as np
    import torch

    from pointsuite.engine.checkpoint import atomic_write, find_checkpoint
    from pointsuite.engine.runner.preflight import look
    from pointsuite.evaluation import PROTOCOLS, evaluate_protocols, format_protocols
    from pointsuite.report import report_predictions
    from pointsuite.visualization import draw_predictions

    runner = command.build_runner(cfg)
    dataset = runner.build_dataloader(cfg.test_dataloader).dataset
    for line in look("test", dataset, runner.model):
        runner.logger.info(line)
    device = next(runner.model.parameters()).device
    networks = find_networks(runner, cfg.load_from, dataset)
    if args.so3_checkpoint:
        path = find_checkpoint(args.so3_checkpoint)
        others = find_networks(command.build_runner(cfg), path, dataset)
        if "SO3" not in others:
            found = "under z" if others else "without rotation"
            raise UsageError(f"--so3-checkpoint {path}: trained {found}, wanted one trained under SO(3)")
        networks["SO3"] = others["SO3"]
    served = [protocol for protocol in PROTOCOLS if protocol.split("/")[0] in networks]
    if not served:
        raise UsageError(
            f"{cfg.load_from}: its network is not invariant to rotation, and its training has no "
            "RandomRotate under z or SO(3), so it has no row: train it with one, or give --so3-checkpoint"
        )
    options = {"num_rotations": args.num_rotations, "seed": args.seed or 0, "device": torch.device(device)}
    results = evaluate_protocols(networks, dataset, served, **options)
    table = format_protocols(results, [protocol for protocol in PROTOCOLS if protocol not in served])
    print(table)
    if "SO3" not in networks:
        print("not invariant to rotation; --so3-checkpoint takes a network that was trained under SO(3)")

    name = "z/SO3" if "z/SO3" in results else served[0]
    shown = results[name]
    folder = Path(cfg.work_dir)
    predictions = folder / "predictions.npz"
    with atomic_write(predictions) as file:
        np.savez(
            file,
            index=np.arange(len(shown.labels)),
            label=shown.labels,
            prediction=shown.predictions[0],
            classes=np.array(dataset.metainfo["classes"]),
        )
    pictures = (folder / "predictions.png", folder / "confusion.png")
    draw_predictions(dataset.data_file, predictions, *pictures, split=dataset.split)
    print(f"pictures of {name}: {pictures[0]} {pictures[1]}")
    if not args.no_report:
        title = f"Test of {Path(cfg.load_from).name} under {name}"
        summary = {key: value for key, value in shown.summary().items() if key != "std"}
        tables = {"Rotation protocols": table}
        print(report_predictions(cfg, dataset, shown.labels, shown.predictions[0], title, summary, tables))


def find_networks(runner, path: str, dataset) -> dict:
    """The model with a checkpoint's weights by the training rotations that it may stand for.

    A checkpoint that does not say how it was trained is taken to be trained as the config says.
    """
    from pointsuite.evaluation import is_invariant, training_rotation

    meta = runner.load_checkpoint(path).get("meta") or {}
    if is_invariant(runner.model, len(dataset[0]["inputs"])):
        return {"z": runner.model, "SO3": runner.model}
    said = str(meta.get("cfg", ""))
    config = said if "train_dataloader" in said else runner.cfg
    rotation = training_rotation(config, dataset.metainfo["up"])
    return {rotation: runner.model} if rotation else {}


if __name__ == "__main__":
    command.run(main)
