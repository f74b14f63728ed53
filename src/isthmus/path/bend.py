"""Starts for a fit that are bent to one side of a path, and to the other."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from isthmus.path.abstract import AbstractPath
from isthmus.seeds import seeded
from isthmus.weights import Weights


def bent(
    path: AbstractPath, spread: float, seed: int, number: int, held: Sequence[slice] = ()
) -> AbstractPath:
    """Start number k of a fit: 0 is the path itself; 1 and 2, 3 and 4, … are bent to opposite sides of it.

    All inner controls are moved by ±δ, a random direction of length `spread` times the distance between the
    ends. On the segment between two networks that a symmetry exchanges the gradient has no part across it: a
    fit from there cannot tell the sides apart, and one side may be lower.

    Args:
        path: the start, with at least one inner control.
        spread: |δ| over the distance between the ends.
        seed: of the directions; a pair shares one.
        number: of the start.
        held: parts of the vector that training holds still, which stay where they are on the path.

    Example:
        >>> import torch
        >>> from isthmus.path import Chain
        >>> from isthmus.weights import Weights
        >>> a, b = (Weights.from_state_dict({"x": torch.tensor(v)}) for v in ([0.0, 0.0], [2.0, 0.0]))
        >>> one, two = (bent(Chain.between(a, b), 0.1, 0, k).controls[1] for k in (1, 2))
        >>> round(one.distance(two), 6), ((one + two) * 0.5)["x"].tolist()
        (0.4, [1.0, 0.0])
    """
    if not number:
        return path
    first, last = path.ends
    noise = torch.randn(first.vector.shape, generator=seeded(seed, "bend", (number - 1) // 2))
    for part in held:
        noise[part] = 0
    step = spread * path.endpoint_distance / float(noise.norm()) * (1 if number % 2 else -1)
    moved = [
        Weights(w.layout, (w.vector + step * noise.to(w.vector)).to(w.vector.dtype))
        for w in path.controls[1:-1]
    ]
    return type(path)((first, *moved, last))
