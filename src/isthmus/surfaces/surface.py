"""What is measured over a plane."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Quantity = Literal["loss", "error"]
Shown = Literal["loss", "error", "objective"]
_TWO_SIDED = 1.96


@dataclass(frozen=True, eq=False)
class Projected:
    """A further model, or a further path, that is drawn at its projection on the plane.

    Attributes:
        name: what it is called.
        kind: "model" or "path".
        points: coordinates in the plane, shape (points, 2); one point for a model.
        distance: how far each point is from the plane, shape (points,); 0 where it lies in it.
        loss: of a model itself, off the plane; nan for a path.
        error: likewise.
    """

    name: str
    kind: str
    points: Tensor
    distance: Tensor
    loss: float
    error: float

    @property
    def gap(self) -> float:
        """The largest distance from the plane."""
        return float(self.distance.max())


@dataclass(frozen=True, eq=False)
class Interpolated:
    """Where a surface was evaluated, and how well the rest is known.

    Attributes:
        evaluated: which nodes were evaluated, shape (rows, columns), bool; the others are interpolated.
        loss_low: lower end of each node's interval, shape (rows, columns); the value itself where evaluated.
        loss_high: its upper end.
        error_low: likewise for the error.
        error_high: its upper end.
        precision: what was asked for: the largest half-width of an interval, as a share of the scale (for an
            error, beside the step of one example, which no refinement takes away).
        reached: the largest half-width there is.
        of: the quantity that the refinement looked at.
    """

    evaluated: Tensor
    loss_low: Tensor
    loss_high: Tensor
    error_low: Tensor
    error_high: Tensor
    precision: float
    reached: float
    of: Quantity


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
        corner_loss: mean loss of the three models themselves, under the same policy, shape (3,).
        corner_error: their error rate, shape (3,).
        loss_spread: the standard error of each node's mean loss over the examples, shape (rows, columns);
            that of an interpolated node is taken from the nearest one, in proportion to the loss.
        error_spread: likewise of its error rate, by Agresti and Coull: not 0 where no example is wrong.
        squares: ‖θ‖² at every node, shape (rows, columns).
        decay: λ of the recipe that the models were trained by.
        projected: further models and paths, at their projections.
        interpolated: which nodes were evaluated; None where all were.
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
    corner_loss: Tensor | None = None
    corner_error: Tensor | None = None
    loss_spread: Tensor | None = None
    error_spread: Tensor | None = None
    squares: Tensor | None = None
    decay: float = 0.0
    projected: tuple[Projected, ...] = ()
    interpolated: Interpolated | None = None

    def __repr__(self) -> str:
        part = "" if self.interpolated is None else f", {self.evaluations} of them evaluated"
        return (
            f"Surface({len(self.x)} × {len(self.y)} nodes through {', '.join(self.names)}{part}, "
            f"{self.examples} {self.split} examples, loss {self.loss.min():.4g} to {self.loss.max():.4g})"
        )

    @property
    def nodes(self) -> int:
        """How many nodes the grid has."""
        return self.loss.numel()

    @property
    def evaluations(self) -> int:
        """How many nodes were evaluated; the models themselves are not counted."""
        return self.nodes if self.interpolated is None else int(self.interpolated.evaluated.sum())

    @property
    def models(self) -> tuple[Projected, ...]:
        """The further models."""
        return tuple(each for each in self.projected if each.kind == "model")

    @property
    def paths(self) -> tuple[Projected, ...]:
        """The further paths."""
        return tuple(each for each in self.projected if each.kind == "path")

    def values(self, of: Shown = "loss") -> Tensor:
        """The loss, the error or the objective at every node, shape (rows, columns).

        The objective is what training minimises: loss + ½ λ ‖θ‖². The loss of a network that fits its
        training data goes on falling as its weights grow, so that no contour closes around the model; the
        objective has its minimum near it.

        Source: Garipov et al. 2018, arXiv 1802.10026, figure 1 (ℓ2-regularised train loss).
        """
        return self.error if of == "error" else self.loss + self._penalty(of)

    def _penalty(self, of: Shown) -> Tensor | float:
        return 0.5 * self.decay * self.squares if of == "objective" and self.squares is not None else 0.0

    def interval(self, of: Shown = "loss") -> tuple[Tensor, Tensor]:
        """What is known of every node, (low, high), each of shape (rows, columns): 95 % or so.

        The part that comes from interpolation, where a node was not evaluated, and 1.96 standard errors of
        the mean over the examples on either side: it holds for other examples of the same kind.

        Limits: where a few examples carry nearly all of a loss (below a thousandth of the highest, say), a
        subset that misses them cannot know; their share of nodes is measured by `benchmarks/plane.py`.
        """
        known, error = self.interpolated, of == "error"
        low = high = self.error if error else self.loss
        if known is not None:
            low = known.error_low if error else known.loss_low
            high = known.error_high if error else known.loss_high
        spread = self.error_spread if error else self.loss_spread
        if spread is not None:
            low, high = low - _TWO_SIDED * spread, high + _TWO_SIDED * spread
        if error:
            return low.clamp(0, 1), high.clamp(0, 1)
        return low + self._penalty(of), high + self._penalty(of)
