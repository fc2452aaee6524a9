"""Maps of what counts in an image: from what layers give, to another size, smoothed, combined."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

# How far the features of layers spread, and how well a linear probe does on them, of the networks that
# Rebuffi et al. (CVPR 2020) combine layers of.
LAYER_WEIGHTS = {
    "activation": {
        "VGG-16": {
            "features.3": 0.21194,
            "features.8": 0.32256,
            "features.15": 0.39071,
            "features.22": 0.06749,
            "features.29": 0.00730,
        },
        "ResNet-50": {"layer1": 0.16987, "layer2": 0.19502, "layer3": 0.19306, "layer4": 0.44204},
    },
    "accuracy": {
        "VGG-16": {
            "features.3": 0.03269,
            "features.8": 0.12526,
            "features.15": 0.21196,
            "features.22": 0.30409,
            "features.29": 0.32599,
        },
        "ResNet-50": {"layer1": 0.07776, "layer2": 0.11202, "layer3": 0.19604, "layer4": 0.61418},
    },
}


def to_map(x: Tensor, size: tuple[int, int], num_prefix_tokens: int | None = None) -> Tensor:
    """What a layer gives as a map with channels first.

    Args:
        x: (B, C, h, w); (B, h, w, C), told apart by the sides of the image; or tokens (B, P + h * w, C), the
            patches last and row by row.
        size: of the image, (H, W): h / w is about H / W.
        num_prefix_tokens: P; by default the fewest that leave a grid of the image's proportions.

    Returns:
        (B, C, h, w).

    Raises:
        ValueError: it is no map.
    """
    if x.ndim == 4:
        first, last = _distortion(x.shape[2:], size), _distortion(x.shape[1:3], size)
        return x if first <= last else x.permute(0, 3, 1, 2)
    if x.ndim == 3:
        for prefix in (num_prefix_tokens, *range(9)):
            if prefix is None or not 0 <= prefix < x.shape[1]:
                continue
            grid = _grid(x.shape[1] - prefix, size)
            if grid is not None:
                return x[:, prefix:].mT.unflatten(2, grid)
    raise ValueError(f"a layer gave {tuple(x.shape)}, wanted a map (B, C, h, w) or patches of {size} pixels")


def _distortion(grid: Sequence[int], size: tuple[int, int]) -> float:
    """How far a grid is from the proportions of an image: 1 is not at all."""
    ratio = grid[0] * size[1] / (grid[1] * size[0])
    return max(ratio, 1 / ratio)


def _grid(count: int, size: tuple[int, int]) -> tuple[int, int] | None:
    """The grid of so many patches nearest the proportions of an image; None where it is far from them."""
    grids = [(h, count // h) for h in range(1, count + 1) if count % h == 0]
    best = min(grids, key=lambda grid: _distortion(grid, size))
    return best if _distortion(best, size) < 1.25 else None


def resize_map(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (B, 1, h, w) to (B, 1, *size), bilinearly."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)


def gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    """Smooth maps by a Gaussian, borders repeated.

    Args:
        x: (B, C, H, W).
        sigma: its deviation as a share of the longer side; weights reach four of them.

    Returns:
        as ``x``.
    """
    if not sigma > 0:
        raise ValueError(f"smooth: found {sigma}, wanted a positive share of the longer side")
    sigma = sigma * max(x.shape[2:])
    half = int(-(-4 * sigma // 1))
    places = torch.arange(-half, half + 1, device=x.device, dtype=x.dtype)
    weight = torch.exp(-((places / (2**0.5 * sigma + 1.19e-7)) ** 2))
    weight = (weight / weight.sum()).expand(x.shape[1], 1, 1, -1)
    x = F.pad(x, (half, half, half, half), mode="replicate")
    return F.conv2d(F.conv2d(x, weight, groups=x.shape[1]), weight.mT, groups=x.shape[1])


def normalize_map(x: Tensor) -> Tensor:
    """Each map of (B, 1, H, W) to 0 ... 1; a constant one to 0."""
    low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
    return torch.where(high > low, (x - low) / (high - low).clamp(min=torch.finfo(x.dtype).tiny), 0.0)


def combine_maps(
    maps: Sequence[Tensor],
    size: tuple[int, int],
    how: str = "sum",
    weights: str | Sequence[float] = "uniform",
    layers: Sequence[str | None] = (),
) -> Tensor:
    """One map of those of several layers: each resized and stretched to 0 ... 1, then put together.

    Args:
        maps: (B, 1, h, w) each, from early to late.
        size: (H, W) of the result.
        how: "sum" of w M, "product" of M^w with weights of the sum 1, or "plain_product", all weights 1.
        weights: one for each map, or "uniform"; "linear", 1 for the first, 2 for the second and so on;
            "activation" or "accuracy" for :data:`LAYER_WEIGHTS`.
        layers: their names, for these tables.

    Returns:
        (B, 1, H, W).

    Raises:
        ValueError: unknown words, weights of another number, negative or all 0.
    """
    maps = [normalize_map(resize_map(x, size)) for x in maps]
    if how == "plain_product":
        return torch.stack(maps).prod(0)
    if how not in ("sum", "product"):
        raise ValueError(f"combine: found {how!r}, wanted 'sum', 'product' or 'plain_product'")
    share = torch.as_tensor(find_weights(weights, len(maps), layers), dtype=maps[0].dtype)
    if len(share) != len(maps) or (share < 0).any() or not share.sum() > 0:
        raise ValueError(f"weights: found {share.tolist()}, wanted {len(maps)}, none negative, not all 0")
    share = (share / share.sum()).tolist()
    if how == "sum":
        return sum(w * x for w, x in zip(share, maps, strict=True))
    return torch.stack([x**w for w, x in zip(share, maps, strict=True)]).prod(0)


def find_weights(
    weights: str | Sequence[float], count: int, layers: Sequence[str | None] = ()
) -> Sequence[float]:
    """The weights of so many layers by a word, or as given; see :func:`combine_maps`."""
    if not isinstance(weights, str):
        return weights
    if weights == "uniform":
        return [1.0] * count
    if weights == "linear":
        return range(1, count + 1)
    if weights not in LAYER_WEIGHTS:
        raise ValueError(
            f"weights: found {weights!r}, wanted 'uniform', 'linear', {', '.join(map(repr, LAYER_WEIGHTS))} "
            f"or numbers"
        )
    for table in LAYER_WEIGHTS[weights].values():
        if set(layers) <= set(table):
            return [table[name] for name in layers]
    known = "; ".join(f"{', '.join(table)} of {name}" for name, table in LAYER_WEIGHTS[weights].items())
    raise ValueError(f"weights {weights!r} are for the layers {known}, found {', '.join(map(str, layers))}")
