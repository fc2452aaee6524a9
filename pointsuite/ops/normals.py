"""Normals of point sets by weighted principal component analysis."""

import torch
from torch import Tensor


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
