"""The landscape over a plane: the field's best-known picture, for any three models."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from isthmus.errors import SettingError
from isthmus.fanout import Fanout
from isthmus.landscape import AbstractLandscape
from isthmus.path import AbstractPath, Plane
from isthmus.progress import Progress


@dataclass(frozen=True, eq=False, repr=False)
class Surface:
    """Mean loss and error over a grid of a plane.

    Attributes:
        x: horizontal coordinates, in units of weight space, shape (columns,).
        y: vertical coordinates, shape (rows,).
        loss: mean loss at (y, x), shape (rows, columns).
        error: error rate, shape (rows, columns), in [0, 1].
        names: of the three models.
        corners: their coordinates, shape (3, 2).
        curve: coordinates of a path drawn in the plane, shape (points, 2); (0, 2) if there is none.
        curve_name: what the path is.
        gap: the largest distance of the path from the plane; 0 where it lies in it.
        split: "train" or "test".
        examples: how many examples the means rest on.
        batchnorm: the batch-norm policy.
    """

    x: Tensor
    y: Tensor
    loss: Tensor
    error: Tensor
    names: tuple[str, ...]
    corners: Tensor
    curve: Tensor
    curve_name: str
    gap: float
    split: str
    examples: int
    batchnorm: str

    def __repr__(self) -> str:
        return (
            f"Surface({len(self.x)} × {len(self.y)} nodes through {', '.join(self.names)}, {self.examples} "
            f"{self.split} examples, loss {self.loss.min():.4g} to {self.loss.max():.4g})"
        )


def scan_plane(
    plane: Plane,
    landscape: AbstractLandscape,
    *,
    names: tuple[str, str, str] = ("A", "B", "C"),
    curve: AbstractPath | None = None,
    curve_name: str = "curve",
    resolution: int = 21,
    margin: float = 0.2,
    split: str = "test",
    fanout: Fanout | None = None,
    progress: Progress | None = None,
) -> Surface:
    """Evaluate a grid that covers the three models (and the path) with a margin.

    Args:
        plane: through the three models.
        landscape: where to evaluate.
        names: of the three models, in the plane's order.
        curve: a path to draw over it; points off the plane are projected, and the largest gap is kept.
        curve_name: what to call it.
        resolution: nodes along the longer side; at least 3. The grid's cells are square but for
            rounding; the shorter side has at least 3 nodes.
        margin: added on every side, as a share of the extent.
        split: "train" or "test".
        fanout: spreads the nodes.
        progress: shows how many nodes are done; silent by default.

    Source: Garipov et al. 2018, arXiv 1802.10026, figure 1 and appendix A.2.
    """
    if resolution < 3 or margin < 0:
        raise SettingError(f"expected a resolution of at least 3 and margin >= 0, got {resolution}, {margin}")
    trace, gap = _trace(plane, curve)
    extent = torch.cat([plane.corners, trace])
    low, high = extent.min(dim=0).values, extent.max(dim=0).values
    pad = (high - low).max() * margin
    low, high = low - pad, high + pad
    cell = float((high - low).max()) / (resolution - 1)
    columns, rows = (max(3, round(float(side) / cell) + 1) for side in high - low)
    x = torch.linspace(float(low[0]), float(high[0]), columns, dtype=torch.float64)
    y = torch.linspace(float(low[1]), float(high[1]), rows, dtype=torch.float64)
    nodes = torch.stack([x.repeat(rows), y.repeat_interleave(columns)], dim=1)
    found = landscape.evaluate(plane.at(nodes), split, fanout, progress)
    return Surface(
        x, y, found.mean_loss.view(rows, columns), found.mean_error.view(rows, columns),
        tuple(names), plane.corners, trace, curve_name if curve is not None else "", gap,
        split, found.examples, found.batchnorm,
    )  # fmt: skip


def _trace(plane: Plane, curve: AbstractPath | None, points: int = 61) -> tuple[Tensor, float]:
    """The path's projection on the plane and its largest distance from it.

    A projection is linear, so only the controls are projected; the distance of a point from the plane is
    at most the controls' coefficients' worth, and is exact where the controls lie in the plane.
    """
    if curve is None:
        return torch.zeros(0, 2, dtype=torch.float64), 0.0
    placed = [plane.project(control) for control in curve.controls]
    where = torch.tensor([[x, y] for x, y, _ in placed], dtype=torch.float64)
    coefficients = curve.coefficients(torch.linspace(0, 1, points, dtype=torch.float64))
    gaps = torch.tensor([gap for _, _, gap in placed], dtype=torch.float64)
    return coefficients @ where, float((coefficients.abs() @ gaps).max())
