"""What every landscape offers, and the record of what it measured."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from isthmus.errors import SettingError
from isthmus.fanout import Fanout, Serial
from isthmus.landscape.task import Recipe
from isthmus.progress import Progress
from isthmus.weights import Weights

SPLITS = ("train", "test")
"""The two data splits that every claim shows side by side: fitted data and held-out data."""


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """Loss and error of some points on the same examples.

    Attributes:
        loss: shape (points, examples), the loss of each point on each example, in the loss's own unit (nats
            for cross-entropy).
        error: shape (points, examples), in [0, 1]: 1 where the prediction is wrong.
        split: "train" or "test".
        batchnorm: the batch-norm policy in force, or "none" where there is no batch norm.
    """

    loss: Tensor
    error: Tensor
    split: str
    batchnorm: str = "none"

    def __repr__(self) -> str:
        return f"Evaluation({self.points} points × {self.examples} {self.split} examples)"

    @property
    def mean_loss(self) -> Tensor:
        """The mean loss of each point, shape (points,), float64."""
        return self.loss.double().mean(dim=1)

    @property
    def mean_error(self) -> Tensor:
        """The error rate of each point, shape (points,), float64, in [0, 1]."""
        return self.error.double().mean(dim=1)

    @property
    def points(self) -> int:
        """How many points were evaluated."""
        return self.loss.shape[0]

    @property
    def examples(self) -> int:
        """How many examples each was evaluated on."""
        return self.loss.shape[1]


class AbstractLandscape(abc.ABC):
    """A loss surface: it evaluates points, and lets an optimiser descend.

    Attributes:
        device: where vectors given to `descent` must live.
    """

    device: str = "cpu"

    @abc.abstractmethod
    def evaluate(
        self,
        points: Sequence[Weights],
        split: str = "test",
        fanout: Fanout | None = None,
        progress: Progress | None = None,
    ) -> Evaluation:
        """Loss and error of every point on every example of a split."""

    @abc.abstractmethod
    def descent(self, vector: Tensor, gradient: Tensor) -> AbstractContextManager[Callable[[Any], float]]:
        """A function of a batch that adds the mean loss's gradient at `vector` to `gradient`.

        Both tensors have shape (P,) and may change in place between calls. The function returns the loss.
        """

    @abc.abstractmethod
    def stream(self, seed: int, batch: int, start: int = 0) -> Iterator[Any]:
        """An endless stream of training batches, shuffled anew each epoch; the same for the same seed.

        Args:
            seed: gives the order.
            batch: examples a batch.
            start: begin at this step of the stream; what was before is skipped, not replayed.
        """

    @property
    @abc.abstractmethod
    def identity(self) -> str:
        """A digest of all that determines losses and gradients: task, data, code."""

    @property
    def recipe(self) -> Recipe:
        """How models of this landscape are trained: where connectors take their defaults from."""
        return Recipe()

    @property
    def frozen(self) -> list[slice]:
        """The parts of the vector that training holds still: `descent` gives them no gradient."""
        return []

    @abc.abstractmethod
    def steps_per_epoch(self, batch: int) -> int:
        """How many batches of the stream make one pass over the training data."""


def require_split(split: str) -> str:
    """The split itself, if there is one of this name."""
    if split not in SPLITS:
        raise SettingError(f"expected the split 'train' or 'test', got {split!r}")
    return split


def serial(fanout: Fanout | None) -> Fanout:
    """The fan-out itself, or the serial default."""
    return Serial() if fanout is None else fanout
