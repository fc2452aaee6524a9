"""Print which part of a class's logit relevance propagation brings to each layer of a network, by its rules.

Example:
    python tools/analysis/relevance.py work_dirs/mine photographs --layers backbone.stages.1.0

The logit is that of the class that the network answers. A row for each place, the image first; a column for
each set of rules: the median over all images and, after it, how far the middle half of them spreads. Linear
layers, ReLU and max-pools lose nothing; of a convolution its bias keeps a share.
"""

from collections.abc import Sequence
from pathlib import Path

from pointsuite.engine import command


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.Parser(description=__doc__)
    parser.add_argument("model", help="a run's config or work dir, or a checkpoint of a classifier")
    parser.add_argument("images", nargs="+", help="files, or folders of them")
    parser.add_argument("--checkpoint", help="weights for a config")
    parser.add_argument("--layers", nargs="+", metavar="NAME", default=[], help="dotted names of modules")
    parser.add_argument("--rules", nargs="+", metavar="NAME", help="sets of rules (default: all)")
    parser.add_argument("--max-images", type=command.whole(1), default=100, help="at most (default: 100)")
    parser.add_argument("--device", help="as cpu or cuda:0")
    args = parser.parse_args(argv)
    import torch

    from dense.base.images import LoadImage
    from dense.classification import Classifier
    from dense.explain.salient_relevance import RULE_SETS, measure_conservation
    from pointsuite.engine.errors import UsageError, nearest

    for name in args.rules or ():
        if name not in RULE_SETS:
            wanted = f"wanted some of {', '.join(RULE_SETS)}{nearest(name, RULE_SETS)}"
            raise UsageError(f"--rules: found {name!r}, {wanted}")
    classifier = Classifier(args.model, args.checkpoint, args.device)
    paths = [
        path for name in args.images for path in (classifier.expand(name) if Path(name).is_dir() else [name])
    ]
    sets = {name: RULE_SETS[name] for name in args.rules or RULE_SETS}
    found: dict[tuple[str, str], list] = {}
    for path in paths[: args.max_images]:
        picture = classifier.prepare(LoadImage()({"img_path": str(path)}))["inputs"]
        inputs = classifier.preprocessor({"inputs": [picture]})["inputs"]
        for name, rules in sets.items():
            shares = measure_conservation(classifier.model, inputs, args.layers, rules)
            for layer, share in shares.items():
                found.setdefault((layer, name), []).append(share.cpu())
    print(f"{len(paths[: args.max_images])} images\n{'before':<24}" + "".join(f"{name:>22}" for name in sets))
    for layer in ["", *args.layers]:
        cells = []
        for name in sets:
            low, middle, high = (
                torch.cat(found[layer, name]).double().quantile(torch.tensor([0.25, 0.5, 0.75]).double())
            )
            cells.append(f"{middle:.3f} ({high - low:.3f})")
        print(f"{layer or 'the image':<24}" + "".join(f"{cell:>22}" for cell in cells))


if __name__ == "__main__":
    command.run(main)
