"""Fast geometric ensembling: many models for little more training than one.

From a trained model, the learning rate goes down and up in cycles. Each time it is lowest, a snapshot is
taken; the high rates between carry the weights from one snapshot to another one along a region of low loss.
The snapshots' predictions are averaged by `isthmus.ensembles.ensemble`.

Source: Garipov et al. 2018, arXiv 1802.10026, section 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from isthmus.errors import RunError, SettingError, TaskError
from isthmus.experiments.train import Training
from isthmus.fanout import Alone, World
from isthmus.identity import digest_of
from isthmus.io.state import NoStore, Store
from isthmus.landscape import Task
from isthmus.progress import Progress
from isthmus.stepping import take_steps
from isthmus.weights import Weights

_HIGH, _LOW = 0.5, 0.1
"""Published rates over those of the training: 0.05 and 0.01 where it was 0.1 (PreResNet164, WideResNet)."""
_PERIOD_EPOCHS = 2
_BUFFER = "buffer."
_TAKEN = "snapshots"


@dataclass(frozen=True)
class CyclicalSettings:
    """The cycles of a learning rate.

    Attributes:
        cycles: snapshots to take.
        period: steps from one snapshot to the next, an even number; the first comes after half of it.
        high: the rate between two snapshots, and (but for one step) at the beginning.
        low: the rate at a snapshot.
        seed: of the order of the data, augmentation and dropout.
    """

    cycles: int
    period: int
    high: float
    low: float
    seed: int = 0

    def __post_init__(self) -> None:
        if self.cycles < 1:
            raise SettingError(f"expected at least 1 cycle, got {self.cycles}")
        if self.period < 2 or self.period % 2:
            raise SettingError(
                f"the period must be an even number of steps, at least 2 (the rate is lowest in its middle), "
                f"got {self.period}"
            )
        if not 0 < self.low <= self.high < math.inf:
            raise SettingError(f"expected rates 0 < low <= high, got low {self.low} and high {self.high}")

    @property
    def steps(self) -> int:
        """Gradient steps in all; the last one is the last snapshot's."""
        return (self.cycles - 1) * self.period + self.period // 2

    def rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0.

        With t = ((step mod c) + 1)/c for the period c, it is (1 − 2t) high + 2t low up to t = ½, and
        (2 − 2t) low + (2t − 1) high from there on.

        Example:
            >>> triangle = CyclicalSettings(cycles=2, period=4, high=0.5, low=0.1)
            >>> [round(triangle.rate_at(step), 6) for step in range(6)]
            [0.3, 0.1, 0.3, 0.5, 0.3, 0.1]

        Source: Garipov et al. 2018, section 4.
        """
        t = (step % self.period + 1) / self.period
        low = 2 * t if t <= 0.5 else 2 - 2 * t
        return (1 - low) * self.high + low * self.low

    def snapshot_after(self, step: int) -> bool:
        """Whether a snapshot is taken after this step: the rate is lowest there."""
        return step % self.period == self.period // 2 - 1


@dataclass(frozen=True, eq=False)
class CyclicalTraining:
    """What cycles of the learning rate gave.

    Attributes:
        snapshots: one a cycle, each with its batch-norm statistics, on the CPU.
        steps: how many steps came before each.
        history: the mean training loss of each epoch, shape (epochs,).
        settings: the cycles.
    """

    snapshots: tuple[Weights, ...]
    steps: tuple[int, ...]
    history: Tensor
    settings: CyclicalSettings


def train_cyclical(
    task: Task,
    start: Weights,
    *,
    cycles: int = 6,
    period: int | None = None,
    high: float | None = None,
    low: float | None = None,
    seed: int = 0,
    device: str = "cpu",
    store: Store | None = None,
    progress: Progress | None = None,
    world: World | None = None,
) -> CyclicalTraining:
    """Train on from a model under a cyclical learning rate, and take a snapshot each time it is lowest.

    The optimiser, its momentum and decay, the batch size and augmentation are the recipe's; momentum begins
    at zero. The same seed gives the same snapshots to the last bit, whatever the interruptions.

    Args:
        task: model, data and recipe.
        start: a trained model, of the task's layout.
        cycles: snapshots to take; at least 1.
        period: steps of a cycle, even; by default two passes over the training data.
        high: the highest rate; by default half of the recipe's.
        low: the lowest rate; by default a tenth of the recipe's.
        seed: of everything random here; another one than the start was trained from, to see the data in
            another order.
        device: where to compute.
        store: where the state is kept for resuming; each snapshot in a part of its own.
        progress: shows the loss and the time left; silent by default.
        world: data-parallel ranks; each takes its share of every batch.

    Returns:
        A `CyclicalTraining` with its snapshots. `isthmus.ensembles.ensemble` averages their predictions, and
        measures their weight average beside that.

    Raises:
        SettingError: a setting out of range.
        TaskError: the loss became infinite or not a number.

    Cost: as many plain training steps as `(cycles − 1/2) period`; memory and disk, one model a snapshot.

    Limits: the publication starts from a model that is not trained to the end of its schedule; one that is
    loses some accuracy in the first cycle.

    Source: Garipov et al. 2018, arXiv 1802.10026, section 4; rates: the authors' code (PreResNet164).
    """
    chosen = cycle_settings(task, cycles, period, high, low, seed)
    run = _Cyclical(task, start, chosen, device, world or Alone(), store or NoStore())
    course = take_steps(run, run.identity, store, progress)
    if not course.finite:
        raise TaskError(
            f"the cyclical training of {task.name} diverged at step {course.taken}: the loss is not a finite "
            f"number; lower the highest rate ({chosen.high:g})"
        )
    at = tuple(step + 1 for step in range(chosen.steps) if chosen.snapshot_after(step))
    return CyclicalTraining(tuple(run.snapshots), at, course.history, chosen)


def cycle_settings(
    task: Task,
    cycles: int,
    period: int | None = None,
    high: float | None = None,
    low: float | None = None,
    seed: int = 0,
) -> CyclicalSettings:
    """The cycles of `train_cyclical`, with what was not said taken from the recipe."""
    recipe = task.recipe
    if period is None:
        period = _PERIOD_EPOCHS * task.split("train").steps_per_epoch(recipe.batch)
    top = _HIGH * recipe.rate if high is None else high
    bottom = min(_LOW * recipe.rate, top) if low is None else low
    return CyclicalSettings(cycles, period, top, bottom, seed)


class _Cyclical(Training):
    """A training whose rate goes in cycles, with a snapshot at each minimum."""

    def __init__(
        self,
        task: Task,
        start: Weights,
        settings: CyclicalSettings,
        device: str,
        world: World,
        store: Store,
    ) -> None:
        super().__init__(task, settings.seed, settings.steps, device, world, start)
        self.settings, self.store = settings, store
        self.name = f"cycles of {task.name}"
        self.snapshots: list[Weights] = []
        # Before the first step: the vector that the digest is of changes in place.
        self._identity = digest_of(super().identity, asdict(settings))

    @property
    def identity(self) -> str:
        """A digest of the task, the start and the settings."""
        return self._identity

    def rate_at(self, step: int) -> float:
        """The learning rate of a step: the cycle's."""
        return self.settings.rate_at(step)

    @contextmanager
    def begin(self, start: int) -> Iterator[Callable[[int], float]]:
        """Step k, and a snapshot after it where the rate is lowest."""
        with super().begin(start) as step_taken:

            def take(step: int) -> float:
                loss = step_taken(step)
                if math.isfinite(loss) and self.settings.snapshot_after(step):
                    self._keep(self.snapshot())
                return loss

            yield take

    def _keep(self, snapshot: Weights) -> None:
        """A snapshot is written once, when it is taken; the state that is saved often only counts them."""
        self.snapshots.append(snapshot)
        buffers = {_BUFFER + name: value for name, value in snapshot.buffers.items()}
        part = self.store.part(f"snapshot-{len(self.snapshots)}")
        part.save(self._identity, {"vector": snapshot.vector} | buffers, {})

    def tensors(self) -> dict[str, Tensor]:
        """The training's state, and how many snapshots there are."""
        return super().tensors() | {_TAKEN: torch.tensor(len(self.snapshots))}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put the state back, and read the snapshots."""
        super().restore(tensors)
        self.snapshots = [self._read(number) for number in range(1, int(tensors[_TAKEN]) + 1)]

    def _read(self, number: int) -> Weights:
        saved = self.store.part(f"snapshot-{number}").load(self._identity)
        if saved is None:
            raise RunError(
                f"the saved state of {self.name} counts {number} snapshots or more, but snapshot {number} is "
                "missing; delete the state to start over"
            )
        found, _ = saved
        buffers = {name.removeprefix(_BUFFER): t for name, t in found.items() if name.startswith(_BUFFER)}
        return Weights(self.landscape.network.layout, found["vector"], buffers)
