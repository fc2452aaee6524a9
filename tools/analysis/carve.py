"""Ask a vision-language model about an image, and again with the part that the question is about.

Examples:
    python tools/analysis/carve.py kitchen.jpg --model llava-1.5-7b-hf --question "What is in the bowl?"
    python tools/analysis/carve.py mosaic.png --model work_dirs/vr-r2_mosaics --layers 0-3 \\
        --question "what is top left ?"

--model is a folder that save_pretrained of transformers wrote (pip install pointsuite[vlm]; nothing is
downloaded), or a run of this suite's configs/vision_remember: its config or work dir. Writes
refined_NAME.png, what is asked about, cut out and enlarged, and carve_NAME.png: the image, how much each
pixel is asked about, what is kept, and the refined picture. Prints the answers to the image alone and with
its part.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from pointsuite.engine import command


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.Parser(description=__doc__)
    parser.add_argument("image", help="file")
    parser.add_argument(
        "--model", required=True, help="a folder of Hugging Face, or a run's config or work dir"
    )
    parser.add_argument("--checkpoint", help="weights for a config")
    parser.add_argument("--question", required=True)
    parser.add_argument("--general", help="what asks for a description (default: that of the paper)")
    parser.add_argument("--version", default="v4", help="v1 to v4: steps and choice of regions (default: v4)")
    parser.add_argument("--layers", type=parse_layers, help="of the decoder, as 20-25 (default) or 3,5,7")
    parser.add_argument("--top", type=float, default=0.2, help="share of pixels that are kept (default: 0.2)")
    parser.add_argument("--keep", type=int, default=3, help="least number of regions (default: 3)")
    parser.add_argument("--outlier", type=float, default=0.1, help="of v1: least size of a region, %% of all")
    parser.add_argument("--max-pixels", type=int, help="of an image, for Qwen's processors")
    parser.add_argument("--device", help="as cpu or cuda:0")
    parser.add_argument("--out", type=Path, default=Path("work_dirs/carve"), help="folder to write to")
    args = parser.parse_args(argv)
    import numpy as np
    from PIL import Image

    from dense.classification.visualization import draw_heat
    from dense.explain.carve import LAYERS, ask
    from dense.explain.providers import load_provider
    from pointsuite.engine.images import read_rgb, to_colour
    from pointsuite.visualization import draw_tiles

    picture = to_colour(read_rgb(args.image), args.image)
    options = {"max_pixels": args.max_pixels} if args.max_pixels else {}
    provider = load_provider(args.model, args.checkpoint, args.device, **options)
    found = ask(
        provider,
        Image.fromarray(picture),
        args.question,
        general=args.general,
        version=args.version,
        layers=args.layers or LAYERS,
        top_percent=args.top,
        min_keep_regions=args.keep,
        outlier_percent=args.outlier,
    )
    args.out.mkdir(parents=True, exist_ok=True)
    name = Path(args.image).stem
    refined = args.out / f"refined_{name}.png"
    found.refinement.image.save(refined)
    fused, mask, (x0, y0, x1, y1), cut = found.refinement
    kept = np.where(mask[..., None], picture, picture // 4)
    pictures = [picture, draw_heat(picture, np.log(fused)), kept, np.asarray(cut)]
    titles = [
        f"answer: {found.first}",
        "how much each pixel is asked about (logarithm)",
        f"kept: {100 * mask.mean():.0f} % of the pixels, box {x0}, {y0} to {x1}, {y1}",
        f"answer with it: {found.refined}",
    ]
    print(refined)
    print(draw_tiles(pictures, titles, 4, args.out / f"carve_{name}.png", args.question))
    print(f"{args.question}\n  the image alone: {found.first}\n  with its part:   {found.refined}")


def parse_layers(text: str) -> tuple[int, ...]:
    """ "20-25" or "3,5,7" or both, with commas between."""
    layers = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not first.isdigit() or (last and not last.isdigit()):
            raise argparse.ArgumentTypeError(f"found {text!r}, wanted numbers of layers, as 20-25 or 3,5,7")
        layers += range(int(first), int(last or first) + 1)
    return tuple(layers)


if __name__ == "__main__":
    command.run(main)
