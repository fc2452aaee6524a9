"""CARVE: ask a vision-language model again with the part of the image that the question is about.

Ge et al., "Focusing by Contrastive Attention: Enhancing VLMs' Visual Reasoning", arXiv 2509.06461.
Published code: YuyaoGe/CARVE, without a licence. Nothing is trained. The attention that answers the question
pays to the image is divided by that of a general description (:func:`contrast`), summed over steps and layers
(:func:`fuse`), cut to the regions that hold most of it (:func:`select_regions`), and the image to these
(:func:`refine`). Whatever gives attention is an :class:`AttentionProvider`; :mod:`dense.explain.vlm` makes
one of a model of Hugging Face.
"""

from collections.abc import Sequence
from math import isqrt, prod
from typing import NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import label
from torch import Tensor
from torch.nn import functional as F

from pointsuite.engine.errors import nearest

Box = tuple[int, int, int, int]
# how steps are summed, and how regions are chosen
VERSIONS = {
    "v1": ("first", "remove_small"),
    "v2": ("first", "size"),
    "v3": ("first", "attention_sum"),
    "v4": ("all", "attention_sum"),
}
LAYERS = tuple(range(20, 26))
GENERAL = "Write a general description of the image."
SUFFIX = " Answer the question using a single word or phrase."
SQUARES = {576: 24, 1024: 32, 1600: 40, 1681: 41, 256: 16}  # published sides of grids, by their tokens


class Attention(NamedTuple):
    """What a provider found while a model answered.

    Attributes:
        answer: text.
        maps: (T, L, N), of the position that predicts each of T tokens, in each of L layers, to each of the N
            tokens of the image; the mean over heads, not normalised over the image.
        grid: (h, w) of the tokens, row by row; None where the model does not know.
    """

    answer: str
    maps: Tensor
    grid: tuple[int, int] | None


class AttentionProvider(Protocol):
    """A vision-language model as CARVE needs it. One that cannot read :data:`GENERAL` or :data:`SUFFIX` has
    ``general`` and ``suffix`` of its own.
    """

    def attention(self, image: Image.Image, prompt: str) -> Attention:
        """Answer a prompt about an image, and record where the answer looks."""

    def answer(self, images: Sequence[Image.Image], prompt: str) -> str:
        """Answer a prompt about one or more images."""


class Refinement(NamedTuple):
    """What :func:`carve` finds.

    Attributes:
        fused: (H, W) float64, how much each pixel is asked about.
        mask: (H, W) bool, the regions that are kept.
        box: x0, y0, x1, y1 around them; the last two are exclusive.
        image: what is in the box, black outside of the mask, enlarged to cover the size of the original.
    """

    fused: np.ndarray
    mask: np.ndarray
    box: Box
    image: Image.Image


def carve(
    image: Image.Image,
    query: Tensor,
    general: Tensor,
    grid: tuple[int, int] | None = None,
    *,
    version: str = "v4",
    layers: Sequence[int] = LAYERS,
    top_percent: float = 0.2,
    outlier_percent: float = 0.1,
    min_keep_regions: int = 3,
    lam: float = 1e-8,
    reference_quirks: bool = False,
) -> Refinement:
    """All four steps. ``version`` is one of :data:`VERSIONS`; other arguments as of the functions below.

    Raises:
        ValueError: as they do; an unknown version.
    """
    if version not in VERSIONS:
        raise ValueError(
            f"version: found {version!r}, wanted one of {', '.join(VERSIONS)}{nearest(version, VERSIONS)}"
        )
    mode, strategy = VERSIONS[version]
    ratio = contrast(query, general, lam)
    fused = fuse(ratio, grid, image.size, layers, mode, reference_quirks=reference_quirks)
    mask = select_regions(fused, strategy, top_percent, outlier_percent, min_keep_regions)
    box, refined = refine(image, mask)
    return Refinement(fused, mask, box, refined)


# --------------------------------------------------------------------------------------------------- steps


def contrast(query: Tensor, general: Tensor, lam: float = 1e-8) -> Tensor:
    """Attention that answers a question, over that of a general description: a / (b + lam).

    Args:
        query, general: (T, L, N) floats, not negative; the longer one's last steps count for nothing.
        lam: keeps it finite where the description pays no attention.

    Returns:
        (min(T), L, N), in float32 at least.

    Raises:
        ValueError: shapes that do not fit, no step, NaN, infinity or negative numbers, a ``lam`` that is not
            positive.
    """
    for name, maps in (("query", query), ("general", general)):
        if maps.ndim != 3 or not maps.is_floating_point() or not maps.numel():
            raise ValueError(
                f"{name}: found {tuple(maps.shape)} {maps.dtype}, wanted floats (steps, layers, tokens)"
            )
        if not maps.isfinite().all() or (maps < 0).any():
            raise ValueError(f"{name}: found NaN, infinity or a negative number, wanted attention weights")
    if query.shape[1:] != general.shape[1:]:
        raise ValueError(f"general: found {tuple(general.shape)}, wanted (steps, *{tuple(query.shape[1:])})")
    if not lam > 0:
        raise ValueError(f"lam: found {lam}, wanted a positive number")
    steps = min(len(query), len(general))
    query, general = (
        maps[:steps].to(torch.promote_types(maps.dtype, torch.float32)) for maps in (query, general)
    )
    return query / (general + lam)


def fuse(
    ratio: Tensor,
    grid: tuple[int, int] | None,
    size: tuple[int, int],
    layers: Sequence[int] = LAYERS,
    mode: str = "all",
    *,
    reference_quirks: bool = False,
) -> np.ndarray:
    """Sum over steps and layers, resized to the image: (T, L, N) to (H, W), in float64.

    Resizing is linear, so the sum is taken on the grid of tokens and resized once, bilinearly and against
    aliasing.

    Args:
        ratio: what :func:`contrast` gives.
        grid: (h, w) of the tokens; None for a square.
        size: (W, H) of the image.
        layers: which count; those that the model does not have are left out.
        mode: "all" steps, the first with the weight 1, the second with 2 and so on; or the "first".
        reference_quirks: see :func:`find_grid`.

    Raises:
        ValueError: no layer is left, a grid that does not fit, an unknown mode.
    """
    if mode not in ("all", "first"):
        raise ValueError(f"mode: found {mode!r}, wanted 'all' or 'first'")
    if min(size) < 1:
        raise ValueError(f"size: found {size}, wanted a width and a height of at least 1")
    depth = ratio.shape[1]
    if min(layers, default=0) < 0:
        raise ValueError(f"layers: found {min(layers)}, wanted 0 or more")
    own = [layer for layer in layers if layer < depth]
    if not own:
        raise ValueError(
            f"layers: found {_shorten(layers)}, wanted some of 0 to {depth - 1}, which the model has"
        )
    h, w = find_grid(ratio.shape[2], grid, reference_quirks)
    steps = ratio[:1] if mode == "first" else ratio
    weights = torch.arange(1, len(steps) + 1, dtype=torch.float64, device=ratio.device)
    total = torch.einsum("t,tln->n", weights, steps[:, own, : h * w].double())
    total = total.view(1, 1, h, w)
    whole = F.interpolate(total, size[::-1], mode="bilinear", align_corners=False, antialias=True)
    return whole[0, 0].cpu().numpy()


def find_grid(tokens: int, grid: tuple[int, int] | None, reference_quirks: bool = False) -> tuple[int, int]:
    """Rows and columns of an image's tokens; where there are more than the grid has, the first count.

    Args:
        tokens: their number.
        grid: as the model has it; None for a square.
        reference_quirks: five numbers of tokens are squares whatever the grid, as published, which scrambles
            maps of images that are not; and a square takes the place of a grid that does not fit.

    Raises:
        ValueError: they fill no such grid.
    """
    if reference_quirks and tokens in SQUARES:
        return SQUARES[tokens], SQUARES[tokens]
    if grid is not None and 0 < prod(grid) <= tokens:
        return grid
    side = isqrt(tokens)
    if (grid is None or reference_quirks) and side**2 == tokens:
        return side, side
    wanted = f"a grid of {grid[0]} by {grid[1]}" if grid is not None else "a square number"
    raise ValueError(f"image tokens: found {tokens}, wanted {wanted}")


def select_regions(
    fused: np.ndarray,
    strategy: str = "attention_sum",
    top_percent: float = 0.2,
    outlier_percent: float = 0.1,
    min_keep_regions: int = 3,
) -> np.ndarray:
    """The regions that are asked about: (H, W) to bool (H, W).

    Candidates are pixels at or above the quantile 1 - ``top_percent`` (interpolated linearly), so equal
    numbers may be more than that share; a region is what hangs together over sides, not corners.

    Args:
        fused: what :func:`fuse` gives.
        strategy: "remove_small" drops regions of fewer pixels than ``outlier_percent`` % of the candidates
            (0.1 is a thousandth); "size" and "attention_sum" keep the max(``min_keep_regions``,
            int(``top_percent`` of the regions)) with most pixels, or with the largest sum; of equal ones
            those whose first pixel comes first.
        top_percent: of 0 ... 1.

    Raises:
        ValueError: an unknown strategy, numbers out of range, NaN, or a constant map, which points nowhere.
    """
    if strategy not in (known := ("remove_small", "size", "attention_sum")):
        raise ValueError(
            f"strategy: found {strategy!r}, wanted one of {', '.join(known)}{nearest(strategy, known)}"
        )
    if not 0 < top_percent <= 1:
        raise ValueError(f"top_percent: found {top_percent}, wanted more than 0 and at most 1")
    for name, value, least in (
        ("outlier_percent", outlier_percent, 0),
        ("min_keep_regions", min_keep_regions, 1),
    ):
        if value < least:
            raise ValueError(f"{name}: found {value}, wanted at least {least}")
    if fused.ndim != 2 or not fused.size or not np.isfinite(fused).all():
        raise ValueError(f"map: found {fused.shape}, NaN or infinity, wanted finite numbers (H, W)")
    if fused.min() == fused.max():
        raise ValueError(
            f"map: found {fused.flat[0]:.6g} everywhere, wanted one that differs from place to place"
        )
    mask = fused >= np.percentile(fused, (1 - top_percent) * 100)
    regions, count = label_regions(mask)
    sizes = np.bincount(regions.ravel(), minlength=count + 1)[1:]
    if strategy == "remove_small":
        kept = np.flatnonzero(sizes >= int(mask.sum() * outlier_percent / 100))
    else:
        sums = np.bincount(regions.ravel(), fused.ravel(), count + 1)[1:]
        scores = sizes if strategy == "size" else sums
        kept = np.argsort(-scores, kind="stable")[: max(min_keep_regions, int(count * top_percent))]
    return np.isin(regions, kept + 1)


def label_regions(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Number what hangs together over sides, from 1, in raster order of first pixels; 0 elsewhere.

    Args:
        mask: (H, W) bool.

    Returns:
        (H, W) int64, and how many there are.
    """
    found, count = label(mask)
    numbers, first = np.unique(found, return_index=True)
    order = np.zeros(count + 1, dtype=np.int64)
    order[numbers[numbers > 0][np.argsort(first[numbers > 0])]] = np.arange(1, count + 1)
    return order[found], count


def refine(image: Image.Image, mask: np.ndarray) -> tuple[Box, Image.Image]:
    """Cut an image to what is kept, enlarged to cover its size; black outside of the mask.

    Args:
        image: of any mode; it becomes RGB.
        mask: (H, W) bool; where it is empty, the whole image is cut, and black.

    Returns:
        x0, y0, x1, y1 (exclusive), and the cut, resized by Lanczos's filter with its own proportions.

    Raises:
        ValueError: the mask has another size.
    """
    if mask.shape != image.size[::-1]:
        raise ValueError(f"mask: found {mask.shape}, wanted {image.size[::-1]} as the image")
    width, height = image.size
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    box = (0, 0, width, height)
    if len(rows):
        box = tuple(int(n) for n in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    pixels = np.asarray(image.convert("RGB")) * mask[..., None].astype(np.uint8)
    cut = Image.fromarray(pixels).crop(box)
    scale = max(width / cut.width, height / cut.height)
    # as published: rounded down, yet never to nothing
    size = tuple(max(1, int(side * scale)) for side in cut.size)
    return box, cut.resize(size, Image.Resampling.LANCZOS)


def _shorten(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:6])) + (", ..." if len(numbers) > 6 else "")


# ------------------------------------------------------------------------------------------------ asking


class Answers(NamedTuple):
    """What :func:`ask` finds: the answer to the image alone, that with its part, and the part."""

    first: str
    refined: str
    refinement: Refinement


def ask(
    provider: AttentionProvider,
    image: Image.Image,
    question: str,
    *,
    general: str | None = None,
    suffix: str | None = None,
    **options,
) -> Answers:
    """Answer a question about an image in three passes: it, a general description, and both images.

    Args:
        provider: a model.
        image: RGB, or what becomes it.
        question: text.
        general: asks for the description; by default the provider's, or :data:`GENERAL`.
        suffix: goes after both; by default the provider's, or :data:`SUFFIX`.
        **options: of :func:`carve`.

    Raises:
        ValueError: as :func:`carve`; the provider finds no tokens of the image.
    """
    if not question.strip():
        raise ValueError("question: found no text, wanted some")
    general = getattr(provider, "general", GENERAL) if general is None else general
    suffix = getattr(provider, "suffix", SUFFIX) if suffix is None else suffix
    image = image.convert("RGB")
    query = provider.attention(image, question + suffix)
    description = provider.attention(image, general + suffix)
    refinement = carve(image, query.maps, description.maps, query.grid, **options)
    refined = provider.answer([image, refinement.image], question + suffix)
    return Answers(query.answer, refined, refinement)
