"""Averages of predictions, a batch at a time: what several points and their average say of every example."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from isthmus.ensembles.calibration import Binned, binned
from isthmus.errors import TaskError
from isthmus.landscape import Landscape, Task
from isthmus.landscape.dataset import Batch
from isthmus.landscape.task import target_of
from isthmus.progress import Progress
from isthmus.seeds import seeded
from isthmus.weights import Weights

Averaged = Literal["probabilities", "outputs"]

_IGNORED = -100
_RESAMPLE_BLOCK = 1 << 22
"""Resampled counts held at a time (numbers)."""


@dataclass(frozen=True, eq=False)
class Tally:
    """What some predictors gave on the same examples.

    Attributes:
        loss: shape (rows, examples).
        error: shape (rows, examples).
        gap: in each bin of confidence, what is right minus the confidence, shape (rows, examples, bins).
        curve: sums of weight, confidence and what is right in each bin, shape (rows, bins, 3).
        apart: how often two members differ, shape (examples,).
    """

    loss: Tensor
    error: Tensor
    gap: Tensor
    curve: Tensor
    apart: Tensor

    def with_first_of(self, other: Tally) -> Tally:
        """These predictors and the other's first, on the same examples."""
        names = ("loss", "error", "gap", "curve")
        loss, error, gap, curve = (
            torch.cat([getattr(self, name), getattr(other, name)[:1]]) for name in names
        )
        return Tally(loss, error, gap, curve, self.apart)

    def row(self, number: int) -> Tensor:
        """Loss, error and gaps of one predictor on every example, shape (examples, 2 + bins)."""
        pair = torch.stack([self.loss[number], self.error[number]], dim=1)
        return torch.cat([pair, self.gap[number].double()], dim=1) if len(self.gap) else pair

    @classmethod
    def joined(cls, batches: Sequence[Tally]) -> Tally:
        """The same predictors on the examples of all batches."""
        return cls(
            torch.cat([b.loss for b in batches], dim=1), torch.cat([b.error for b in batches], dim=1),
            torch.cat([b.gap for b in batches], dim=1), torch.stack([b.curve for b in batches]).sum(dim=0),
            torch.cat([b.apart for b in batches]),
        )  # fmt: skip


def predicted(
    landscape: Landscape,
    points: Sequence[Weights],
    split: str,
    share: tuple[int, int],
    way: Averaged,
    bins: int,
    progress: Progress,
) -> Iterator[Tally]:
    """A batch at a time: the rows of all points and, where there are several, of their average."""
    mixtures: list[Mixture] = []
    for found in landscape.predictions(points, split, share, progress):
        if found.point == 0:
            mixtures = [Mixture(landscape.task, batch, way, bins) for batch in found.batches]
        for mixture, output in zip(mixtures, found.outputs, strict=True):
            mixture.add(output)
        if found.point == len(points) - 1:
            yield from (mixture.tally() for mixture in mixtures)


@dataclass
class Mixture:
    """The running average of predictions on one batch."""

    task: Task
    batch: Batch
    way: Averaged
    bins: int
    count: int = 0
    total: Tensor | None = None
    votes: Tensor | None = None
    losses: list[Tensor] = field(default_factory=list)
    errors: list[Tensor] = field(default_factory=list)
    kind: torch.dtype = torch.float32
    sorted: list[Binned] = field(default_factory=list)

    def add(self, output: Any) -> None:
        """Count one more member's output."""
        self.count += 1
        said = self._said(output)
        self._judge(output, said)
        if self.way == "outputs":
            self.total = said if self.total is None else self.total + said
            return
        # In logarithms, so that a class that every member finds impossible keeps its digits.
        self.total = said if self.total is None else torch.logaddexp(self.total, said)
        chosen = self._class_last(said)[0]
        chosen = functional.one_hot(chosen.argmax(dim=-1), chosen.shape[-1]).to(torch.int16)
        self.votes = chosen if self.votes is None else self.votes + chosen

    def tally(self) -> Tally:
        """Every member, and their average as the last."""
        assert self.total is not None
        by_logarithm = self.way == "probabilities"
        mean = self.total - math.log(self.count) if by_logarithm else self.total / self.count
        self._judge(mean.to(self.kind) if self.task.loss or self.task.error else mean, mean)
        examples = len(self.losses[0])
        gap = torch.stack([b.gap for b in self.sorted]) if self.sorted else torch.zeros(0, examples, 0)
        sums = torch.stack([b.sums for b in self.sorted]) if self.sorted else torch.zeros(0, 0, 3)
        found = (torch.stack(self.losses), torch.stack(self.errors), gap.float(), sums, self._apart(examples))
        return Tally(*(tensor.cpu() for tensor in found))

    def _judge(self, output: Any, said: Tensor) -> None:
        """Loss, error and confidence of one predictor."""
        self.losses.append(self.task.losses(output, self.batch).double())
        self.errors.append(self.task.errors(output, self.batch).double())
        if self.way == "probabilities":
            scores, target = self._class_last(said)
            best, chosen = scores.max(dim=-1)
            self.sorted.append(binned(best.exp(), chosen == target, target != _IGNORED, self.bins))

    def _said(self, output: Any) -> Tensor:
        """What is averaged: logarithms of probabilities in the output's own layout, or the output itself."""
        target = target_of(self.batch)
        if not isinstance(output, Tensor) or not output.is_floating_point():
            kind = output.dtype if isinstance(output, Tensor) else type(output).__name__
            raise TaskError(
                f"the predictions of an ensemble are averaged as tensors of real numbers, but the model of "
                f"{self.task.name} gives {kind}: pass the task forward= to pick them out"
            )
        self.kind = output.dtype
        if self.way == "outputs":
            return output.double()
        whole = isinstance(target, Tensor) and not target.is_floating_point() and not target.is_complex()
        if not whole or output.dim() < 2:
            is_tensor = isinstance(target, Tensor)
            told = f"of {target.dtype}" if is_tensor else f"that are a {type(target).__name__}"
            raise TaskError(
                "averaging probabilities needs class scores, shape (examples, classes…), and whole numbers "
                f"as targets, but the task {self.task.name} has outputs of shape {list(output.shape)} and "
                f"targets {told}: say averaged='outputs' to average the outputs themselves"
            )
        return output.double().log_softmax(dim=self._class_dimension(output, target))

    @staticmethod
    def _class_dimension(output: Tensor, target: Tensor) -> int:
        """Where the classes are: last in a sequence's scores, second elsewhere: as in the default loss."""
        return -1 if target.dim() == 2 and output.dim() == 3 else 1

    def _class_last(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (examples, positions, classes) and targets (examples, positions)."""
        target: Tensor = target_of(self.batch)
        if self._class_dimension(scores, target) == -1:
            return scores, target[:, target.shape[1] - scores.shape[1] :]
        count, classes = scores.shape[:2]
        return scores.movedim(1, -1).reshape(count, -1, classes), target.reshape(count, -1)

    def _apart(self, examples: int) -> Tensor:
        """The share of pairs of members that predict different classes, shape (examples,)."""
        if self.votes is None:
            return torch.full((examples,), math.nan, dtype=torch.float64)
        votes, pairs = self.votes.double(), self.count * (self.count - 1) / 2
        alike = (votes * (votes - 1) / 2).sum(dim=-1)
        assert self.total is not None
        counted = (self._class_last(self.total)[1] != _IGNORED).double()
        apart = (1 - alike / pairs) * counted if pairs else torch.zeros_like(alike)
        return apart.sum(dim=1) / counted.sum(dim=1).clamp_min(1)


def resampled_means(tally: Tally, resamples: int, seed: int) -> Tensor:
    """Means of bootstrap resamples, the same for all rows: shape (resamples, rows, 2 + bins).

    A resample is a vector of counts, so that all means are matrix products.
    """
    rows, count = tally.loss.shape
    generator = seeded(seed, "bootstrap")
    size = max(1, _RESAMPLE_BLOCK // count)
    blocks = []
    for start in range(0, resamples, size):
        held = min(size, resamples - start)
        draws = torch.randint(count, (held, count), generator=generator)
        draws += torch.arange(held)[:, None] * count
        counts = torch.bincount(draws.view(-1), minlength=held * count).view(held, count).double() / count
        blocks.append(torch.stack([counts @ tally.row(row) for row in range(rows)], dim=1))
    return torch.cat(blocks)


def as_rows(columns: Tensor, members: int) -> Tensor:
    """From loss, error and gaps, (…, rows, 2 + bins), to loss, error and calibration error, (…, rows + 1, 3).

    The last row is the mean of the members' rows.
    """
    calibration = columns[..., 2:].abs().sum(dim=-1, keepdim=True)
    rows = torch.cat([columns[..., :2], calibration], dim=-1)
    return torch.cat([rows, rows[..., :members, :].mean(dim=-2, keepdim=True)], dim=-2)
