"""Draw where classifiers look: distances of heads, their gates, dependency trees, what an overview tells.

Examples:
    python tools/analysis/attention.py work_dirs/convit-ti_cifar10 bird.png ship.png --out work_dirs/attention
    python tools/analysis/attention.py converted.pth photographs --out work_dirs/attention

Writes distances.png, the mean distance in patches of what each head attends to, over all images; where
attention is gated by position (ConViT) also gates.png, the share of position in each head. Where tokens send
messages (DependencyViT) instead tree_NAME.png for each image: to which token each sends most, as one tree.
Where an overview guides a closer look (OverLoCK) guidance_NAME.png: how strongly it does so in each place.
"""

from collections.abc import Sequence
from pathlib import Path

from pointsuite.engine import command
from pointsuite.engine.errors import UsageError


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.Parser(description=__doc__)
    parser.add_argument("model", help="a run's config or work dir, or a checkpoint of a classifier")
    parser.add_argument("images", nargs="+", help="files, or folders of them")
    parser.add_argument("--checkpoint", help="weights for a config")
    parser.add_argument("--device", help="as cpu or cuda:0")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    args = parser.parse_args(argv)
    import torch
    from PIL import Image

    from dense.base import TokenBackbone
    from dense.base.drawing import to_picture
    from dense.base.images import LoadImage
    from dense.classification import Classifier
    from dense.classification.visualization import draw_heads, draw_heat, draw_tree

    classifier = Classifier(args.model, args.checkpoint, args.device)
    trunk = getattr(classifier.model, "backbone", None)
    if not isinstance(trunk, TokenBackbone) and not hasattr(trunk, "guidance"):
        raise UsageError(
            f"{args.model}: found {type(trunk).__name__}, wanted a backbone of tokens or with an overview"
        )
    args.out.mkdir(parents=True, exist_ok=True)
    paths = [
        Path(path)
        for name in args.images
        for path in (classifier.expand(name) if Path(name).is_dir() else [name])
    ]
    distances = []
    for path in paths:
        picture = classifier.prepare(LoadImage()({"img_path": str(path)}))["inputs"]
        inputs = classifier.preprocessor({"inputs": [picture]})["inputs"]
        if hasattr(trunk, "dependency_trees"):
            grid = tuple(side // trunk.spec["patch_size"] for side in inputs.shape[2:])
            (parents,) = trunk.dependency_trees(inputs)
            out = args.out / f"tree_{path.stem}.png"
            Image.fromarray(draw_tree(to_picture(picture), parents.numpy(), grid)).save(out)
            print(out)
        elif hasattr(trunk, "guidance"):
            (strength,) = trunk.guidance(inputs).norm(dim=1).cpu()
            out = args.out / f"guidance_{path.stem}.png"
            Image.fromarray(draw_heat(to_picture(picture), strength.numpy())).save(out)
            print(out)
        else:
            distances.append(trunk.attention_distances(inputs).cpu())
    if distances:
        print(
            draw_heads(torch.stack(distances).mean(0), "mean distance in patches", args.out / "distances.png")
        )
    if hasattr(trunk, "gates"):
        print(draw_heads(trunk.gates().cpu(), "share of position", args.out / "gates.png"))


if __name__ == "__main__":
    command.run(main)
