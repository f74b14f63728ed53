"""Coarse to fine: which nodes of a plane to evaluate next, and what the others are known to be."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from isthmus.surfaces.kriging import krige
from isthmus.surfaces.scale import Scale, scale_of
from isthmus.surfaces.surface import Quantity

_COARSE = 5
"""Nodes along the longer side of the first grid."""
_BATCH, _GROWTH = 8, 0.12
"""A round evaluates this many nodes, or this share of those that are known, if that is more."""
_ASIDE = 0.5
"""The weight of a node that surely lies between two contours, beside one whose side of a contour is open."""


@dataclass(frozen=True, eq=False)
class Filled:
    """A whole surface.

    Attributes:
        means: loss and error at every node, shape (2, nodes).
        bounds: their intervals: low and high, each of shape (2, nodes).
        reached: the largest half-width, as a share of the scale, of the quantity that was refined.
    """

    means: Tensor
    bounds: tuple[Tensor, Tensor]
    reached: float


@dataclass
class Refinement:
    """Chooses nodes until every interval is narrow enough.

    Attributes:
        x: the grid's columns.
        y: the grid's rows.
        corners: where the three models lie, shape (3, 2): what is known of them counts as well.
        precision: the largest half-width allowed, as a share of the scale.
        of: the quantity.
        note: how far it is, for the progress bar.
    """

    x: Tensor
    y: Tensor
    corners: Tensor
    precision: float
    of: Quantity
    note: str = field(default="", init=False)

    def __post_init__(self) -> None:
        longer = max(float(self.x[-1] - self.x[0]), float(self.y[-1] - self.y[0]))
        origin = torch.stack([self.x[0], self.y[0]])
        nodes = torch.stack([self.x.repeat(len(self.y)), self.y.repeat_interleave(len(self.x))], dim=1)
        self._places, self._models = (nodes - origin) / longer, (self.corners - origin) / longer
        self._cell = 1 / (max(len(self.x), len(self.y)) - 1)

    def next(self, known: Tensor, values: Tensor, own: Tensor, examples: Tensor) -> Tensor:
        """The nodes of the next round; none when the precision is reached.

        Args:
            known: nodes that were evaluated, shape (k,).
            values: their means, shape (splits, k).
            own: the models' means, shape (splits, 3).
            examples: of each split.
        """
        worst = torch.zeros(len(self._places), dtype=torch.float64)
        urgent = torch.zeros(len(self._places), dtype=torch.float64)
        for each, models, count in zip(values, own, examples.tolist(), strict=True):
            scale, mean, half, _ = self._predicted(self.of, known, each, models, count)
            share = half / scale.range
            nearest = (mean[:, None] - scale.levels).abs().min(dim=1).values
            worst = torch.maximum(worst, share)
            urgent = torch.maximum(urgent, torch.where(nearest <= half, share, _ASIDE * share))
        self.note = f"largest half-width {float(worst.max()):.3f} of {self.precision:g}"
        open_ = worst > self.precision
        count = max(_BATCH, round(_GROWTH * len(known)))
        return self._apart((urgent * open_).argsort(descending=True, stable=True)[: int(open_.sum())], count)

    def _apart(self, ordered: Tensor, count: int) -> Tensor:
        """The first nodes of an order that are no neighbours of one another."""
        chosen: list[int] = []
        for node in ordered.tolist():
            if not chosen or float((self._places[chosen] - self._places[node]).norm(dim=1).min()) > (
                1.5 * self._cell
            ):
                chosen.append(node)
            if len(chosen) == count:
                break
        return torch.tensor(chosen, dtype=torch.int64)

    def filled(self, known: Tensor, loss: Tensor, error: Tensor, own: Tensor, examples: int) -> Filled:
        """Both quantities at every node: what was evaluated as it is, the rest interpolated.

        Args:
            known: nodes that were evaluated, shape (k,).
            loss: their mean loss, shape (k,).
            error: their error rate, shape (k,).
            own: the models' loss and error, shape (2, 3).
            examples: of the split.
        """
        means, lows, highs, reached = [], [], [], 0.0
        both: tuple[tuple[Quantity, Tensor], ...] = (("loss", loss), ("error", error))
        for row, (of, values) in enumerate(both):
            scale, mean, half, step = self._predicted(of, known, values, own[row], examples)
            drawn = [scale.value(each) for each in (mean, mean - half, mean + half)]
            if of == "error":  # rates are whole numbers of examples, and the scale ends at half of one
                drawn = [each.clamp(0, 1) for each in (drawn[0], drawn[1] - step, drawn[2] + step)]
                drawn[0] = torch.where(drawn[0] <= step / 2, 0.0, drawn[0])
            for each in drawn:
                each[known] = values
            means.append(drawn[0])
            lows.append(drawn[1])
            highs.append(drawn[2])
            if of == self.of:
                reached = float((half / scale.range).max())
        return Filled(torch.stack(means), (torch.stack(lows), torch.stack(highs)), reached)

    def _predicted(
        self, of: Quantity, known: Tensor, values: Tensor, own: Tensor, examples: int
    ) -> tuple[Scale, Tensor, Tensor, float]:
        """Height and half-width at every node, on the scale of what is known; 0 where it was evaluated.

        And the step in which the quantity moves: one example for an error rate, which no smooth surface
        follows; an interval counts it in full, the choice of nodes does not.
        """
        step = 1.0 / examples if of == "error" else 0.0
        floored = values.clamp_min(step / 2) if step else values
        models = own.clamp_min(step / 2) if step else own
        scale = scale_of(torch.cat([floored, models]))
        apart = torch.cdist(self._models, self._places[known]).min(dim=1).values > 0.2 * self._cell
        places = torch.cat([self._places[known], self._models[apart]])
        heights = scale.place(torch.cat([floored, models[apart]]))
        found = krige(places, heights, self._places)
        mean, half = found.mean.clamp(scale.low, scale.high), found.half
        mean[known], half[known] = scale.place(floored), 0.0
        return scale, mean, half, step


def coarse_nodes(x: Tensor, y: Tensor, corners: Tensor) -> Tensor:
    """The first nodes: a coarse grid with the border in it, and the node nearest each model, ascending."""
    longer = max(len(x), len(y)) - 1
    rows, columns = (
        torch.linspace(0, len(side) - 1, max(3, round((_COARSE - 1) * (len(side) - 1) / longer) + 1))
        .round()
        .long()
        for side in (y, x)
    )
    grid = (rows[:, None] * len(x) + columns).flatten()
    near = [
        int((y - corner[1]).abs().argmin()) * len(x) + int((x - corner[0]).abs().argmin())
        for corner in corners
    ]
    return torch.tensor(sorted({*grid.tolist(), *near}))
