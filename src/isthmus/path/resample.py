"""Redistribution: the points of a polyline moved along it until they are evenly spaced.

A new point lies on the old polyline, so it is a blend of two neighbouring controls, (1 − f) w_k + f w_{k+1}.
Which two, and with which f, follows from the lengths of the segments alone.

Source: Draxler et al. 2018, arXiv 1803.00885, section 3.2: the limit of an infinitely stiff spring.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from isthmus.errors import SettingError
from isthmus.path.chain import Chain
from isthmus.weights import combine


def evenly_spaced(lengths: Tensor, inner: int) -> tuple[Tensor, Tensor]:
    """Where the inner points of an even spacing lie on a polyline.

    Point j of m is at the arc length j / (m + 1) of the whole.

    Args:
        lengths: of the segments, shape (segments,), at least 0.
        inner: m, how many points between the ends.

    Returns:
        The segment k of each point and the fraction f of the way along it, in [0, 1], both of shape (m,).
        Where the whole length is 0, any choice is right: all points are one.

    Example:
        >>> segment, fraction = evenly_spaced(torch.tensor([1.0, 3.0]), 1)
        >>> segment.tolist(), fraction.tolist()
        ([1], [0.3333333333333333])
    """
    lengths = lengths.double()
    reached = lengths.cumsum(0)
    target = (
        reached[-1] * torch.arange(1, inner + 1, dtype=torch.float64, device=lengths.device) / (inner + 1)
    )
    segment = torch.searchsorted(reached, target).clamp_max(len(lengths) - 1)
    along = lengths[segment]
    fraction = (target - (reached - lengths)[segment]) / torch.where(along > 0, along, 1.0)
    return segment, torch.where(along > 0, fraction, 0.5).clamp(0, 1)


def redistributed(chain: Chain, inner: int | None = None) -> Chain:
    """A chain with its inner controls at equal arc length along the old one; the ends are kept as they are.

    Corners between the new controls are cut, so the new chain is never longer than the old one.

    Args:
        chain: any chain.
        inner: inner controls of the new one, at least 1; as many as before by default.

    Returns:
        A `Chain`; its inner controls carry no buffers.

    Raises:
        SettingError: no inner control is asked for.

    Example:
        >>> import torch
        >>> from isthmus.weights import Weights
        >>> w = [Weights.from_state_dict({"w": torch.tensor([x])}) for x in (0.0, 1.0, 4.0)]
        >>> [c["w"].item() for c in redistributed(Chain(tuple(w))).controls]
        [0.0, 2.0, 4.0]
    """
    count = len(chain.controls) - 2 if inner is None else inner
    if count < 1:
        raise SettingError(f"a chain is redistributed to at least 1 inner control, got {count}")
    lengths = torch.tensor([a.distance(b) for a, b in pairwise(chain.controls)], dtype=torch.float64)
    segment, fraction = evenly_spaced(lengths, count)
    first, last = chain.ends
    inner_controls = [
        combine((1 - f, f), chain.controls[k : k + 2])
        for k, f in zip(segment.tolist(), fraction.tolist(), strict=True)
    ]
    return Chain((first, *inner_controls, last))
