"""Test a checkpoint as a config describes.

Examples:
    python tools/test.py configs/risurconv/risurconv-s_kicad.py work_dirs/risurconv-s_kicad --protocols
    python tools/test.py configs/ufc/ufc-tiny_warps_pf-willow.py ufc.pth --show-dir pictures

On several GPUs or in several processes: tools/dist_test.sh.
"""

from collections.abc import Sequence
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
        help="a path, a work dir (its last checkpoint), or a URL with its digest (#sha256=...); without one, "
        "weights are as the config initialises them, for baselines that learn nothing",
    )
    parser.add_argument(
        "--protocols",
        action="store_true",
        help="test a classifier of clouds under z/z, z/SO3 and SO3/SO3 and draw its predictions",
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
    args = parser.parse_args(argv)
    import dense  # noqa: F401  before mmcv, mmdet and mmseg, which need its operators
    from pointsuite.engine.checkpoint import find_checkpoint

    cfg = command.load_config(args)
    command.check_test(cfg, args.config)
    cfg.load_from = args.checkpoint and find_checkpoint(args.checkpoint)
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
            initialise(runner)
        runner.test()
        if args.parts:
            draw_test_parts(runner)


def initialise(runner) -> None:
    """Give the model the weights that its config asks for, and say of how many numbers nobody else knows."""
    count = sum(parameter.numel() for parameter in runner.model.parameters())
    if count:
        runner.logger.warning(f"no checkpoint: {count:,} parameters are as the config initialises them")
    runner.model.init_weights()


def draw_images(cfg, folder: str) -> None:
    """Let the library of the config draw every image that is tested."""
    hook = DRAWING_HOOKS.get(cfg.get("default_scope"))
    if hook is None:
        raise UsageError(
            f"--show-dir: the config's default_scope is {cfg.get('default_scope')!r}, wanted one of "
            f"{', '.join(DRAWING_HOOKS)}"
        )
    cfg.custom_hooks = [*cfg.get("custom_hooks", []), dict(hook)]
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

    from pointsuite.engine.checkpoint import find_checkpoint
    from pointsuite.evaluation import evaluate_protocols, format_protocols
    from pointsuite.visualization import draw_predictions

    runner = command.build_runner(cfg)
    dataset = runner.build_dataloader(cfg.test_dataloader).dataset
    device = next(runner.model.parameters()).device
    runner.load_checkpoint(cfg.load_from)
    networks = {"z": runner.model, "SO3": runner.model}
    if args.so3_checkpoint:
        other = command.build_runner(cfg)
        other.load_checkpoint(find_checkpoint(args.so3_checkpoint))
        networks["SO3"] = other.model
    results = evaluate_protocols(
        networks, dataset, num_rotations=args.num_rotations, seed=args.seed or 0, device=torch.device(device)
    )
    print(format_protocols(results))

    shown = results["z/SO3"]
    folder = Path(cfg.work_dir)
    predictions = folder / "predictions.npz"
    np.savez(
        predictions,
        index=np.arange(len(shown.labels)),
        label=shown.labels,
        prediction=shown.predictions[0],
        classes=np.array(dataset.metainfo["classes"]),
    )
    pictures = (folder / "predictions.png", folder / "confusion.png")
    draw_predictions(dataset.metainfo["data_file"], predictions, *pictures, split=dataset.metainfo["split"])
    print(f"pictures of z/SO3: {pictures[0]} {pictures[1]}")


if __name__ == "__main__":
    command.run(main)
