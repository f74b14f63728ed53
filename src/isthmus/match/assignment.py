"""Linear assignment: the only file that imports scipy."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from isthmus.errors import DataError


def maximising_assignment(scores: Tensor) -> Tensor:
    """The permutation p that maximises Σ_i scores[i, p[i]].

    Args:
        scores: shape (n, n), finite.

    Returns:
        LongTensor of shape (n,): for each row its column.

    Raises:
        DataError: a score is not finite.

    Cost: O(n³) at worst; the solver is exact.

    Source: Crouse 2016, "On implementing 2D rectangular assignment algorithms", as in `scipy.optimize`.
    """
    if not bool(torch.isfinite(scores).all()):
        raise DataError(
            "units cannot be matched, as their scores are not finite: look for weights, activations or a "
            "learning rate that are not"
        )
    _, columns = linear_sum_assignment(scores.cpu().double().numpy(), maximize=True)
    return torch.as_tensor(columns, dtype=torch.int64)
