"""Two checkpoints fused by optimal transport, and scored beside their parents and their plain average."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from isthmus.errors import SettingError
from isthmus.landscape import Landscape, Task
from isthmus.landscape.dataset import Batch
from isthmus.match.transport import Method
from isthmus.merge.fusion import Cost, Marginals, averaged, transport_map
from isthmus.merge.softmap import Incoming
from isthmus.progress import Progress
from isthmus.scores import Score, scores
from isthmus.symmetry.export import Inputs
from isthmus.weights import Weights


@dataclass(frozen=True)
class FusionSettings:
    """How two checkpoints are fused; all but the last three as for `isthmus.fuse`.

    Attributes:
        share: B's share.
        plan: "exact" or "sinkhorn".
        regularisation: of "sinkhorn".
        cost: "weights" or "activations".
        marginals: "uniform" or "importance".
        incoming: "split" or "published".
        sweeps: how often every axis is solved again.
        examples: training examples of the activations.
        recalibration: training examples that batch-norm statistics are measured on.
        device: where scores are computed.
    """

    share: float = 0.5
    plan: Method = "exact"
    regularisation: float = 0.01
    cost: Cost = "weights"
    marginals: Marginals = "uniform"
    incoming: Incoming = "split"
    sweeps: int = 0
    examples: int = 200
    recalibration: int = 2048
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise SettingError(f"the share of B must lie in [0, 1], got {self.share}")
        if self.examples < 1:
            raise SettingError(f"activations need at least 1 example, got {self.examples}")
        if self.recalibration < 1:
            raise SettingError(f"batch-norm statistics need at least 1 example, got {self.recalibration}")


@dataclass(frozen=True)
class Carried:
    """What became of one hidden axis.

    Attributes:
        axis: its name.
        units_a: how many units A has.
        units_b: how many units B has.
        kept: the share of A's units that go to one of B's units as a whole.
        cost: the cost of the plan.
    """

    axis: str
    units_a: int
    units_b: int
    kept: float
    cost: float


@dataclass(frozen=True)
class FusionStudy:
    """What a fusion came to.

    Attributes:
        settings: how it was done.
        axes: the hidden axes.
        scored: (name, scores on train and held-out data) of A, B, their plain average if their shapes agree,
            and the fused network; all on B's data.
        tied: parameters that are read both as incoming and as outgoing weights; they were mixed.
    """

    settings: FusionSettings
    axes: tuple[Carried, ...]
    scored: tuple[tuple[str, tuple[Score, ...]], ...]
    tied: tuple[str, ...]


def study_fusion(
    task_a: Task,
    a: Weights,
    task_b: Task,
    b: Weights,
    settings: FusionSettings = FusionSettings(),
    progress: Progress | None = None,
) -> tuple[Weights, FusionStudy]:
    """Fuse two checkpoints and score what comes out.

    Args:
        task_a: A's task; its network is what counts.
        a: weights of A.
        task_b: B's task, whose data everything is scored on.
        b: weights of B.
        settings: how.
        progress: shows the scoring.

    Returns:
        The fused weights, batch-norm statistics measured anew, and the study.

    Raises:
        SymmetryError: the networks differ in more than widths.
        TaskError: A's network does not run on B's data.
    """
    chosen = inputs_of(task_b, settings.examples) if settings.cost == "activations" else None
    soft = transport_map(
        a, b, task_a.traceable, task_b.traceable, task_b.example, plan=settings.plan,
        regularisation=settings.regularisation, cost=settings.cost, marginals=settings.marginals,
        incoming=settings.incoming, sweeps=settings.sweeps, data=chosen,
    )  # fmt: skip
    place = Landscape(task_b, settings.device, recalibration=settings.recalibration)
    fused = place.settled([averaged(soft.apply(a), b, settings.share)])
    # As saved: a checkpoint's own statistics stay; A runs on B's data.
    other = replace(task_b, model=task_a.network.module)
    rows = [
        ("A", _scored(other, a, settings, progress)),
        ("B", _scored(task_b, b, settings, progress)),
    ]
    if a.layout.difference(b.layout) is None:
        plain = place.settled([averaged(a, b, settings.share)])
        rows.append(("plain average", _scored(task_b, plain, settings, progress)))
    rows.append(("fused", _scored(task_b, fused, settings, progress)))
    axes = tuple(
        Carried(name, plan.shape[0], plan.shape[1], _kept(plan), soft.costs[name])
        for name, plan in soft.plans.items()
    )
    return fused, FusionStudy(settings, axes, tuple(rows), soft.tied)


def inputs_of(task: Task, examples: int) -> Inputs:
    """Inputs of so many training examples, the same every time; of a loader, those of its first batch."""
    batch: Batch = next(iter(task.split("train").even_batches(examples, examples)))
    return {n: t for n, t in batch.items() if n != "labels"} if isinstance(batch, dict) else tuple(batch[:-1])


def _scored(
    task: Task, weights: Weights, settings: FusionSettings, progress: Progress | None
) -> tuple[Score, ...]:
    return scores(weights, Landscape(task, settings.device, "keep"), progress)


def _kept(plan: Tensor) -> float:
    """The share of A's units that go to one of B's units as a whole."""
    largest = plan.amax(1) / plan.sum(1)
    return float((largest > 1 - 1e-9).double().mean())
