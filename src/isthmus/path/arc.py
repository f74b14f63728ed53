"""Positions by arc length: where a path has covered a share of its length."""

from __future__ import annotations

import torch
from torch import Tensor


def positions_at_shares(grid: Tensor, along: Tensor, shares: Tensor) -> Tensor:
    """The positions at which a path has covered these shares of its length, by linear interpolation.

    Args:
        grid: ascending positions, shape (m,), the first 0 and the last 1.
        along: the arc length up to each, shape (m,), not descending; from `AbstractPath.distances`.
        shares: of the length, in [0, 1], shape (n,).

    Returns:
        Shape (n,); the shares themselves where the path has no length.

    Example:
        >>> import torch
        >>> grid, along = torch.tensor([0.0, 0.5, 1.0]), torch.tensor([0.0, 3.0, 4.0])
        >>> positions_at_shares(grid, along, torch.tensor([0.0, 0.375, 0.875])).tolist()
        [0.0, 0.25, 0.75]
    """
    if float(along[-1]) == 0:
        return shares.clone()
    wanted = shares * along[-1]
    right = torch.searchsorted(along, wanted).clamp(1, len(grid) - 1)
    part = (wanted - along[right - 1]) / (along[right] - along[right - 1]).clamp_min(1e-300)
    return grid[right - 1] + part.clamp(0, 1) * (grid[right] - grid[right - 1])
