"""The line between two networks, every point on it repaired."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from isthmus.barriers import Profile
from isthmus.errors import SettingError
from isthmus.fanout import Fanout
from isthmus.landscape import Landscape
from isthmus.merge.renormalise import lay_ground, repaired_on, reset_batchnorm, shares_of
from isthmus.path import Segment
from isthmus.progress import Progress
from isthmus.repair.batchnorm import BatchNormPolicy
from isthmus.symmetry import Symmetry
from isthmus.weights import Weights

LineRepair = Literal["none", "reset", "exact", "closed_form", "rescale"]


@dataclass(frozen=True, eq=False, repr=False)
class RepairedLine:
    """Networks along the line between two, each repaired; the ends are as they were given.

    Attributes:
        t: positions, shape (points,), ascending from 0 to 1.
        points: the networks, with their buffers.
        repair: what was done to the inner ones.
    """

    t: Tensor
    points: tuple[Weights, ...]
    repair: str

    def __repr__(self) -> str:
        return f"RepairedLine({self.repair}, {len(self.points)} points)"

    def profile(
        self,
        landscape: Landscape,
        split: str = "test",
        *,
        fanout: Fanout | None = None,
        progress: Progress | None = None,
    ) -> Profile:
        """Loss and error along the line, for `isthmus.barrier`: the height above the ends with its interval.

        Every point is evaluated with the batch-norm statistics that it carries, whatever the landscape's
        policy; distances are those along the straight pieces between the points, buffers left out.
        """
        found = replace(landscape, batchnorm=BatchNormPolicy.KEEP).evaluate(
            self.points, split, fanout, progress
        )
        steps = [b.distance(a) for a, b in zip(self.points, self.points[1:], strict=False)]
        along = torch.tensor([0.0, *steps], dtype=torch.float64).cumsum(0)
        straight = self.points[-1].distance(self.points[0])
        return Profile(f"segment, repair {self.repair}", self.t, along, straight, found)


def repaired_line(
    a: Weights,
    b: Weights,
    landscape: Landscape,
    positions: int | Sequence[float] = 11,
    repair: LineRepair = "exact",
    *,
    examples: int = 1000,
    symmetry: Symmetry | None = None,
    progress: Progress | None = None,
) -> RepairedLine:
    """Repair the networks along the line between two.

    Args:
        a: the one end, as saved, with its buffers.
        b: the other end in A's order: `alignment.apply(b)`.
        landscape: gives the network and the training examples.
        positions: how many, evenly spaced; or the positions, ascending from 0 to 1.
        repair: of the inner points: "exact", "closed_form" and "rescale" as in `repair_activations`; "reset"
            measures batch norm anew; "none" blends its statistics like the weights.
        examples: training examples for the activations' statistics; "reset" uses the landscape's own number.
        symmetry: of the network; discovered if it is needed and not given.
        progress: shows what is being measured; silent by default.

    Returns:
        The points; the first and the last are `a` and `b` to the last bit.

    Raises:
        SettingError: the positions do not ascend from 0 to 1, or the repair is unknown.

    Cost: the ends are measured once for all points. Memory: every point's weights.

    Source: Jordan et al. 2023, arXiv 2211.08403, sections 3 and 4.
    """
    t = _ascending(positions)
    if repair not in get_args(LineRepair):
        raise SettingError(f"expected a repair ({', '.join(get_args(LineRepair))}), got {repair!r}")
    path = Segment(a, b)
    inner = path.at(t[1:-1])
    if repair == "none":
        blending = replace(landscape, batchnorm=BatchNormPolicy.INTERPOLATE)
        fixed = [blending.settled(inner, index) for index in range(len(inner))]
    elif repair == "reset":
        fixed = [reset_batchnorm(point, landscape) for point in inner]
    else:
        ground = lay_ground((a, b), landscape, repair, examples, symmetry, progress)
        fixed = [
            repaired_on(ground, point, shares_of(float(at), 2), repair, progress)
            for at, point in zip(t[1:-1], inner, strict=True)
        ]
    return RepairedLine(t, (a, *fixed, b), repair)


def _ascending(positions: int | Sequence[float]) -> Tensor:
    """The positions, shape (points,), float64."""
    if isinstance(positions, int):
        if positions < 2:
            raise SettingError(f"a line needs at least its 2 ends, got {positions} positions")
        return torch.linspace(0, 1, positions, dtype=torch.float64)
    t = torch.tensor([float(position) for position in positions], dtype=torch.float64)
    if len(t) < 2 or t[0] != 0 or t[-1] != 1 or not bool((t.diff() > 0).all()):
        raise SettingError(f"expected positions that ascend from 0 to 1, got {t.tolist()}")
    return t
