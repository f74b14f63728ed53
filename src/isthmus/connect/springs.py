"""The mathematics of an elastic band on plain tensors: tangents, forces, redistribution, insertion.

A band is a tensor of shape (n + 2, P): the first end, n pivots, the last end. With the segments
d_i = p_i − p_{i−1} the force on pivot i is

    F_i = −g_i + (g_i · τ_i) τ_i + k (|d_{i+1}| − |d_i|) τ_i,

and τ_i is a blend of d_i and d_{i+1}. So a step needs only a few inner products a pivot (`measure`), a few
numbers made of them (`tangents`, `pulls`), and one blend (`advance`). Both passes over the coordinates go
block by block, so that a block is read from memory once.

Source: Henkelman & Jonsson 2000, J. Chem. Phys. 113, 9978, eq. 8-12; Draxler et al. 2018, arXiv 1803.00885,
section 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from isthmus.path.resample import evenly_spaced

_BLOCK = 1 << 17
"""Numbers of one band in a block on the CPU: a few such blocks fit into a core's cache."""

_FOLDED = 1e-12
"""Squared length of a blend of unit vectors below which they cancel: the band folds back onto itself."""


@dataclass(frozen=True, eq=False)
class Geometry:
    """Inner products of a band and its gradients, float64 on the band's device.

    Attributes:
        lengths: |d_i| of the segments, shape (n + 1,).
        bends: d_i · d_{i+1}, shape (n,).
        before: g_i · d_i, shape (n,).
        after: g_i · d_{i+1}, shape (n,).
        squares: |p_i|² of ends and pivots, shape (n + 2,).
    """

    lengths: Tensor
    bends: Tensor
    before: Tensor
    after: Tensor
    squares: Tensor


def measure(band: Tensor, gradients: Tensor) -> Geometry:
    """All inner products that a step needs.

    Args:
        band: shape (n + 2, P).
        gradients: g_i at the pivots, shape (n, P).
    """
    inner = len(gradients)
    gram = torch.zeros(inner + 1, inner + 1, dtype=torch.float64, device=band.device)
    slopes, norms = torch.zeros_like(gram[1:]), torch.zeros_like(gram[0]).new_zeros(inner + 2)
    for d, here, slope in _with_segments(band, gradients):
        gram += _product(d, d.T)
        slopes += _product(slope, d.T)
        norms += torch.linalg.vector_norm(here, dim=1).double().square()
    return Geometry(
        gram.diagonal().sqrt(), gram.diagonal(1), slopes.diagonal(), slopes.diagonal(1), norms
    )  # fmt: skip


def tangents(energies: Tensor, lengths: Tensor, bends: Tensor) -> Tensor:
    """The unit tangents as blends of the two segments of each pivot.

    With u_i = d_i / |d_i|: where the energy is monotone, the tangent points along the segment to the higher
    neighbour. At an extremum it is ΔE_max u + ΔE_min u', normalised, with u the segment to the *higher*
    neighbour; ΔE_max and ΔE_min are the larger and the smaller energy difference to the neighbours, without
    sign. (The published code of Draxler et al. gives the lower neighbour ΔE_max.) All tangents point from the
    first end to the last.

    Args:
        energies: of ends and pivots, shape (n + 2,).
        lengths: |d_i|, shape (n + 1,).
        bends: d_i · d_{i+1}, shape (n,).

    Returns:
        Coefficients (a, b) of τ_i = a d_i + b d_{i+1}, shape (n, 2), float64. Where the energy is flat, the
        tangent bisects the segments; a segment of length zero leaves the choice to the other; where both are
        zero, or cancel, the tangent is zero and the whole gradient acts.

    Source: Henkelman & Jonsson 2000, eq. 8-11, on unit segments.

    Example:
        >>> uphill = tangents(torch.tensor([0.0, 1.0, 5.0]), torch.tensor([1.0, 2.0]), torch.tensor([2.0]))
        >>> uphill.tolist()
        [[0.0, 0.5]]
        >>> top = tangents(torch.tensor([0.0, 4.0, 1.0]), torch.tensor([1.0, 1.0]), torch.tensor([0.0]))
        >>> [round(x, 3) for x in top[0].tolist()]  # the last neighbour is higher: it weighs 4, the first 3
        [0.6, 0.8]
    """
    rise = energies.double().diff().nan_to_num()
    down, up = -rise[:-1], rise[1:]  # E_{i−1} − E_i and E_{i+1} − E_i
    large, small = torch.maximum(down.abs(), up.abs()), torch.minimum(down.abs(), up.abs())
    to_next, to_last = torch.stack([small, large], dim=1), torch.stack([large, small], dim=1)
    weight = torch.where((up > down)[:, None], to_next, to_last) / torch.where(large > 0, large, 1.0)[:, None]
    weight = torch.where((up == down)[:, None], 1.0, weight)
    downhill, uphill = (down > 0) & (up < 0), (down < 0) & (up > 0)
    straight = torch.stack([downhill, uphill], dim=1).double()
    weight = torch.where((downhill | uphill)[:, None], straight, weight)
    return _normalised(weight, lengths.double(), bends.double())


def _normalised(weight: Tensor, lengths: Tensor, bends: Tensor) -> Tensor:
    """Weights of the unit segments as coefficients of the segments that give a unit vector, or zero."""
    near, far = lengths[:-1], lengths[1:]
    exists = torch.stack([near > 0, far > 0], dim=1)
    product = near * far
    cosine = torch.where(product > 0, bends / torch.where(product > 0, product, 1.0), 0.0).clamp(-1, 1)
    weight = torch.where(exists.all(dim=1, keepdim=True), weight, 1.0) * exists
    a, b = weight.unbind(dim=1)
    square = a * a + b * b + 2 * a * b * cosine
    scale = torch.where(square > _FOLDED, square.clamp_min(_FOLDED).rsqrt(), 0.0)
    return weight * scale[:, None] / torch.where(exists, torch.stack([near, far], dim=1), 1.0)


def pulls(geometry: Geometry, tangent: Tensor, spring: float | None) -> Tensor:
    """What is added to −g_i, as coefficients of the two segments: [(g_i · τ_i) + k (|d_{i+1}| − |d_i|)] τ_i.

    Args:
        geometry: of the band.
        tangent: coefficients of the tangents, shape (n, 2).
        spring: k; None for no spring.

    Returns:
        Shape (n, 2), float64.
    """
    along = tangent[:, 0] * geometry.before + tangent[:, 1] * geometry.after
    if spring is not None:
        along = along + spring * geometry.lengths.diff()
    return along[:, None] * tangent


def advance(
    band: Tensor, velocity: Tensor, gradients: Tensor, pull: Tensor, rate: float, momentum: float
) -> None:
    """One step of SGD with momentum on all pivots, in place: v_i ← μ v_i − F_i, p_i ← p_i − η v_i.

    Args:
        band: shape (n + 2, P); the ends are not touched.
        velocity: shape (n, P).
        gradients: g_i, shape (n, P).
        pull: of `pulls`.
        rate: η.
        momentum: μ.
    """
    inner = len(velocity)
    blend = torch.zeros(inner, inner + 1, dtype=band.dtype, device=band.device)
    blend.diagonal().copy_(pull[:, 0])
    blend.diagonal(1).copy_(pull[:, 1])
    for d, here, slope, speed in _with_segments(band, gradients, velocity):
        if _exact(band):
            speed.addmm_(blend, d, beta=momentum, alpha=-1).add_(slope)
        else:
            speed.mul_(momentum).add_(slope).sub_(_product(blend, d))
        here[1:-1].add_(speed, alpha=-rate)


def unevenness(lengths: Tensor) -> float:
    """The largest deviation of a segment's length from their mean, as a share of the mean; 0 if all are 0.

    Example:
        >>> unevenness(torch.tensor([1.0, 1.0, 4.0]))
        1.0
    """
    mean = float(lengths.mean())
    return float((lengths - mean).abs().max()) / mean if mean > 0 else 0.0


def segment_lengths(band: Tensor) -> Tensor:
    """|d_i| of a band's segments, shape (n + 1,), float64."""
    squares = torch.zeros(len(band) - 1, dtype=torch.float64, device=band.device)
    for d, _ in _with_segments(band):
        squares += torch.linalg.vector_norm(d, dim=1).double().square()
    return squares.sqrt()


def redistribute(band: Tensor, velocity: Tensor, lengths: Tensor) -> None:
    """Move the pivots along their polyline to equal spacing, in place, and their velocities with them.

    A velocity belongs to a place of the polyline, not to the number of a pivot: a pivot that is moved a
    fraction f along a segment goes on with the same blend of the velocities of the segment's two pivots as
    of their positions (the ends have none). Had it kept its own, a pivot moved round a bend would be driven
    out of the valley by the momentum of another place.

    Args:
        band: shape (n + 2, P); the ends are not touched.
        velocity: shape (n, P).
        lengths: of the segments, shape (n + 1,).
    """
    segment, fraction = evenly_spaced(lengths, len(velocity))
    blend = torch.zeros(len(velocity), len(band), dtype=torch.float64, device=band.device)
    blend.scatter_(1, segment[:, None], (1 - fraction)[:, None])
    blend.scatter_(1, segment[:, None] + 1, fraction[:, None])
    blend = blend.to(band)
    for here, speed in _blocks(band, velocity):
        # From the first end, so that a coordinate in which all points agree keeps every bit.
        torch.add(here[:1], _product(blend, here - here[:1]), out=here[1:-1])
        speed.copy_(_product(blend[:, 1:-1], speed))


def insertions(loss: Tensor, dense: int, most: int, threshold: float) -> list[tuple[int, float]]:
    """Where a band needs more pivots: places that its segments' straight profile misses.

    On each segment, the position with the largest (loss − linear interpolation of the loss of its two
    pivots) / (max − min on the whole band) is a candidate; the largest above the threshold are taken.

    Args:
        loss: at the ends, the pivots and `dense` even positions inside each segment, in order, shape
            ((n + 1)(dense + 1) + 1,).
        dense: positions inside a segment.
        most: pivots to insert, at most one a segment.
        threshold: the smallest share of the band's range that counts.

    Returns:
        Segments and fractions along them, in the band's order.

    Source: Draxler et al. 2018, section 3.3 (AutoNEB).

    Example:
        >>> insertions(torch.tensor([0.0, 0.0, 8.0, 2.0, 0.0, 1.0, 2.0]), 2, most=2, threshold=0.1)
        [(0, 0.6666666666666666)]
    """
    loss = loss.double().nan_to_num(nan=1e300, posinf=1e300, neginf=-1e300).clamp(-1e300, 1e300)
    scale = float(loss.max() - loss.min())
    if scale == 0 or not most or not dense:
        return []
    pieces = loss.unfold(0, dense + 2, dense + 1)  # each segment with both of its pivots
    share = torch.linspace(0, 1, dense + 2, dtype=torch.float64)
    excess, where = ((pieces - torch.lerp(pieces[:, :1], pieces[:, -1:], share)) / scale)[:, 1:-1].max(dim=1)
    chosen = [int(k) for k in excess.argsort(descending=True, stable=True)[:most] if excess[k] > threshold]
    return [(k, (int(where[k]) + 1) / (dense + 1)) for k in sorted(chosen)]


def with_inserted(band: Tensor, places: list[tuple[int, float]]) -> Tensor:
    """The band with pivots inserted on its polyline.

    Args:
        band: shape (n + 2, P).
        places: segments and fractions, in the band's order, at most one a segment.

    Returns:
        A new tensor of shape (n + 2 + len(places), P); the old rows keep every bit.
    """
    rows = list(band.unbind())
    for segment, fraction in reversed(places):
        rows.insert(segment + 1, torch.lerp(band[segment], band[segment + 1], fraction))
    return torch.stack(rows)


def _blocks(*tables: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Runs of columns that are worked on together: all of them on an accelerator."""
    width = tables[0].shape[1]
    size = max(1, _BLOCK // len(tables[0]) if tables[0].device.type == "cpu" else width)
    for low in range(0, width, size):
        yield tuple(table[:, low : low + size] for table in tables)


def _with_segments(band: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Blocks of a band and of other tables, each with the band's segments d before it, in one scratch."""
    scratch: Tensor | None = None
    for here, *rest in _blocks(band, *others):
        if scratch is None or scratch.shape[1] != here.shape[1]:
            scratch = torch.empty_like(here[1:], memory_format=torch.contiguous_format)
        yield torch.sub(here[1:], here[:-1], out=scratch), here, *rest


def _exact(table: Tensor) -> bool:
    """Whether a matrix product of such tables keeps all its digits."""
    return table.dtype != torch.float32 or torch.get_float32_matmul_precision() == "highest"


def _product(one: Tensor, two: Tensor) -> Tensor:
    """A matrix product in full precision, also where the caller lets that of float32 have fewer digits."""
    return one @ two if _exact(one) else (one.double() @ two.double()).float()
