"""Landscapes given by a formula: minima, saddles and barriers known in closed form."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isthmus.fanout import Fanout
from isthmus.identity import described, digest_of
from isthmus.landscape.abstract import AbstractLandscape, Evaluation, require_split, serial
from isthmus.progress import Progress
from isthmus.weights import Weights


@dataclass(frozen=True, eq=False)
class AnalyticLandscape(AbstractLandscape):
    """A function of the weight vector as a landscape with a single example.

    Attributes:
        function: differentiable, from a vector of shape (P,) to a scalar.

    Example:
        >>> import torch
        >>> from isthmus.weights import Weights
        >>> well = AnalyticLandscape(lambda x: (x.square() - 1).square().sum())
        >>> top = Weights.from_state_dict({"x": torch.zeros(1)})
        >>> well.evaluate([top]).mean_loss.item()
        1.0
    """

    function: Callable[[Tensor], Tensor]

    def evaluate(
        self,
        points: Sequence[Weights],
        split: str = "test",
        fanout: Fanout | None = None,
        progress: Progress | None = None,
    ) -> Evaluation:
        """The function at every point; the error is zero throughout."""
        require_split(split)
        values = serial(fanout).map(lambda point: float(self.function(point.vector.double())), points)
        loss = torch.tensor(values, dtype=torch.float64)[:, None]
        return Evaluation(loss, torch.zeros_like(loss), split)

    @contextmanager
    def descent(self, vector: Tensor, gradient: Tensor) -> Iterator[Callable[[Any], float]]:
        """The function's exact gradient, whatever the batch."""

        def step(_: Any) -> float:
            point = vector.detach().clone().requires_grad_()
            value = self.function(point)
            (slope,) = torch.autograd.grad(value, point)
            gradient.add_(slope)
            return value.item()

        yield step

    @property
    def identity(self) -> str:
        """A digest of the function's code."""
        return digest_of(described(self.function))

    def stream(self, seed: int, batch: int, start: int = 0) -> Iterator[Any]:
        """Empty batches: there are no data."""
        while True:
            yield ()

    def steps_per_epoch(self, batch: int) -> int:
        """One step sees everything there is."""
        return 1
