"""Normals of point sets by weighted principal component analysis."""

import torch
from torch import Tensor

from .gather_points import gather_points
from .knn import knn


def weighted_normal(offsets: Tensor, sign: str = "third_moment") -> Tensor:
    """Direction of least spread of points around a centre, near points counting more.

    The eigenvector of the smallest eigenvalue of sum_j w_j x_j x_j^T, with
    w_j = (d_max - d_j) / sum (d_max - d) and d_j = |x_j|; equal weights where all distances are equal.

    Args:
        offsets: (..., K, 3) float32 or float64, points minus their centre.
        sign: "third_moment" points the normal so that the sum of (x_j . n)^3 is not negative: it turns with
            the points. "lapack" leaves the eigensolver's sign, which does not (as published).

    Returns:
        (..., 3) unit vectors. A set whose smallest eigenvalues coincide gets one of the possible answers.

    Source: RISurConv (ECCV 2024), after Tombari et al., "Unique signatures of histograms for local
    surface description", 2010.
    """
    if offsets.shape[-1] != 3 or offsets.ndim < 2:
        raise ValueError(f"offsets must have shape (..., K, 3), found {tuple(offsets.shape)}")
    if sign not in ("third_moment", "lapack"):
        raise ValueError(f"sign must be 'third_moment' or 'lapack', found {sign!r}")
    distance = offsets.norm(dim=-1)
    weight = distance.amax(-1, keepdim=True) - distance
    total = weight.sum(-1, keepdim=True)
    weight = torch.where(total > 0, weight / total, 1)[..., None]
    covariance = (weight * offsets).transpose(-1, -2) @ offsets
    normal = torch.linalg.eigh(covariance, UPLO="U").eigenvectors[..., 0]
    normal = normal / normal.norm(dim=-1, keepdim=True)
    if sign == "third_moment":
        along = (offsets * normal[..., None, :]).sum(-1)
        normal = torch.where((along**3).sum(-1, keepdim=True) < 0, -normal, normal)
    return normal


ORIENTATIONS = ("outward", "none")
_BLOCK = 2**21  # neighbours whose offsets are held at once


def estimate_normals(
    points: Tensor,
    k: int = 32,
    orient: str = "outward",
    *,
    valid: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Normals of clouds that have none: :func:`weighted_normal` of each point's `k` nearest points.

    Args:
        points: (B, N, 3) float32 or float64.
        k: neighbours a point, the point itself among them; 1 <= k <= the fewest points of a cloud.
        orient: "outward" turns each normal away from the centroid of its cloud, so that the normals turn
            with the points. "none" leaves the eigensolver's sign, which does not (as published with
            RISurConv).
        valid: optional (B,) int64, how many leading points of each cloud are real; the normals of the rest
            are (0, 0, 0).
        backend: of :func:`knn`.

    Returns:
        (B, N, 3) unit vectors in the dtype of `points`. Where outward is undecided, because the normal is
        at right angles to the direction from the centroid (a flat cloud), the third moment of the
        neighbours decides, as in :func:`weighted_normal`. No gradient.

    Raises:
        ValueError: `orient` is unknown, or what :func:`knn` raises. TypeError: as :func:`knn`.
    """
    if orient not in ORIENTATIONS:
        raise ValueError(f"orient must be one of {ORIENTATIONS}, found {orient!r}")
    points = points.detach()
    idx, _ = knn(points, points, k, valid=valid, backend=backend)
    sign = "third_moment" if orient == "outward" else "lapack"
    step = max(1, _BLOCK // (len(points) * k))
    blocks = zip(idx.split(step, 1), points.split(step, 1), strict=True)
    normals = torch.cat(
        [weighted_normal(gather_points(points, i) - p[:, :, None], sign) for i, p in blocks], 1
    )
    real = points.new_ones(points.shape[:2] + (1,))
    if valid is not None:
        real = (torch.arange(points.shape[1], device=points.device) < valid[:, None])[..., None].to(points)
    if orient == "outward":
        centroid = (points * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)
        direction = (points - centroid) * real
        along = (normals * direction).sum(-1, keepdim=True)
        # below this, the sign is rounding
        least = 16 * torch.finfo(points.dtype).eps * direction.norm(dim=-1).amax(1)[:, None, None]
        normals = torch.where(along < -least, -normals, normals)
    return normals * real
