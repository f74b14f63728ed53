"""The plane through three networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from isthmus.errors import SettingError
from isthmus.path.abstract import AbstractPath
from isthmus.weights import Weights, combine

_COLLINEAR = 1e-6


class Plane(AbstractPath):
    """θ(x, y) = a + x û + y v̂, in the units of weight space, through three models.

    û points from a to b; v̂ is the part of c − a at right angles to û, normalised. So a lies at (0, 0),
    b at (‖b − a‖, 0), and c above the horizontal axis.

    Args:
        a: the origin.
        b: gives the horizontal direction.
        c: any third model that is not on the line through a and b.

    Raises:
        SettingError: the three are collinear, or two coincide.

    Source: Garipov et al. 2018, arXiv 1802.10026, appendix A.2.
    """

    kind: ClassVar[str] = "plane"
    fewest_controls: ClassVar[int] = 3

    def __init__(self, a: Weights, b: Weights, c: Weights) -> None:
        super().__init__((a, b, c))
        if not self._frame.spans:
            across, up = (math.sqrt(float(self.gram[k, k])) for k in (1, 2))
            raise SettingError(
                "a plane needs three models that do not lie on one line; "
                f"here ‖b − a‖ = {across:.3g}, ‖c − a‖ = {up:.3g} and the third adds no new direction: "
                "choose another third model"
            )

    @cached_property
    def _frame(self) -> _Frame:
        across = math.sqrt(float(self.gram[1, 1]))
        along = float(self.gram[1, 2]) / across if across else 0.0
        height = math.sqrt(max(float(self.gram[2, 2]) - along**2, 0.0))
        return _Frame(across, along, height)

    @property
    def corners(self) -> Tensor:
        """The coordinates of a, b and c in the plane, shape (3, 2)."""
        frame = self._frame
        return torch.tensor(
            [[0.0, 0.0], [frame.across, 0.0], [frame.along, frame.height]], dtype=torch.float64
        )

    def coefficients(self, t: Tensor) -> Tensor:
        """Barycentric coordinates of the positions t (shape (n, 2)), shape (n, 3)."""
        frame = self._frame
        third = t[:, 1] / frame.height
        second = (t[:, 0] - third * frame.along) / frame.across
        return torch.stack([1 - second - third, second, third], dim=1)

    def project(self, point: Weights) -> tuple[float, float, float]:
        """Where the orthogonal projection of a point lies, and its distance from the plane: (x, y, gap)."""
        a, b, c = self.controls
        frame, apart = self._frame, point - a
        x = apart.dot(b - a) / frame.across
        y = (apart.dot(c - a) - x * frame.along) / frame.height
        squared = apart.dot(apart) - x * x - y * y
        return x, y, math.sqrt(max(squared, 0.0))

    def project_all(self, points: Sequence[Weights]) -> tuple[Tensor, Tensor]:
        """Where several points are projected to, and the inner products of their parts off the plane.

        Returns:
            Coordinates, shape (n, 2), and inner products, shape (n, n): a blend of the points with the
            coefficients c lies at c times the coordinates, at the distance √(cᵀ G c) from the plane.
        """
        a, b, c = self.controls
        frame, off = self._frame, []
        where = torch.zeros(len(points), 2, dtype=torch.float64)
        across, up = (b - a) / frame.across, c - a
        for index, point in enumerate(points):
            apart = point - a
            x = apart.dot(across)
            y = (apart.dot(up) - x * frame.along) / frame.height
            where[index] = torch.tensor([x, y])
            off.append(apart - combine(self._barycentric(x, y), (b - a, up)))
        table = torch.zeros(len(off), len(off), dtype=torch.float64)
        for j, one in enumerate(off):
            for k, two in enumerate(off[: j + 1]):
                table[j, k] = table[k, j] = one.dot(two)
        return where, table

    def _barycentric(self, x: float, y: float) -> tuple[float, float]:
        """The shares of b − a and c − a in x û + y v̂."""
        third = y / self._frame.height
        return (x - third * self._frame.along) / self._frame.across, third


@dataclass(frozen=True)
class _Frame:
    """Lengths that place the third model: ‖b − a‖, and c's part along and across û."""

    across: float
    along: float
    height: float

    @property
    def spans(self) -> bool:
        """Whether the three models are not on one line, to the precision of their coordinates."""
        return self.across > 0 and self.height > _COLLINEAR * math.hypot(self.along, self.height)


def plane(a: Weights, b: Weights, c: Weights) -> Plane:
    """The plane through three models: nothing is trained, and any three of one architecture will do.

    θ(x, y) = a + x û + y v̂, with û from a to b and v̂ the part of c − a at right angles to it.

    Args:
        a: lies at (0, 0).
        b: lies at (‖b − a‖, 0).
        c: lies above the line through a and b.

    Returns:
        A path of two coordinates: `scan_plane` evaluates it.

    Raises:
        LayoutError: the three are not of one architecture.
        SettingError: one is no `Weights`, or the three lie on one line.

    Example:
        >>> import torch
        >>> points = torch.tensor([[0.0, 0.0], [3.0, 0.0], [1.0, 2.0]])
        >>> a, b, c = (Weights.from_state_dict({"w": point}) for point in points)
        >>> plane(a, b, c).corners.tolist()
        [[0.0, 0.0], [3.0, 0.0], [1.0, 2.0]]

    Source: Garipov et al. 2018, arXiv 1802.10026, appendix A.2.
    """
    return Plane(a, b, c)


def spans_plane(a: Weights, b: Weights, c: Weights) -> bool:
    """Whether a plane goes through these three models: whether they do not lie on one line."""
    try:
        Plane(a, b, c)
    except SettingError:
        return False
    return True
