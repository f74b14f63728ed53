"""Many models of one task: brought to one frame, compared pair by pair, and merged to one."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from isthmus.io.checkpoints import Checkpoint
from isthmus.landscape import Landscape, Task
from isthmus.match.many import Method, match_many, match_many_activations, mean_of
from isthmus.progress import Progress, Silent
from isthmus.scores import Score, scores
from isthmus.symmetry import discover
from isthmus.weights import Weights, combine


@dataclass(frozen=True)
class Ingredient:
    """One of the given models.

    Attributes:
        name: how it is called.
        source: the file it came from.
        sha256: of the file.
        notes: what was unwrapped or filled in while reading it.
        moved: the share of its units that the matching moved, over all axes, in [0, 1].
        scores: as its owner saved it (batch-norm statistics kept), on train and test.
    """

    name: str
    source: str
    sha256: str
    notes: tuple[str, ...]
    moved: float
    scores: tuple[Score, ...]


@dataclass(frozen=True)
class PairRow:
    """Two of the models before and after the matching.

    Attributes:
        first: the one's name.
        second: the other's name.
        before: the inner product of their weights as they came.
        after: the inner product of the aligned weights.
        most: the product of their norms, which it cannot exceed.
    """

    first: str
    second: str
    before: float
    after: float
    most: float


@dataclass(frozen=True)
class ManyStudy:
    """What became of many models.

    Attributes:
        method: of the matching.
        outcome: how it ended, in a sentence.
        objective: the sum of the inner products of all pairs of aligned models.
        objective_before: the same of the models as they came.
        seconds: wall time of the matching.
        ingredients: the models, in the order given; the first one's order of units is everyone's.
        pairs: every two of them.
        merged: scores of the mean of the aligned models, batch-norm statistics measured anew.
        unaligned: scores of the mean of the models as they came, for comparison.
    """

    method: str
    outcome: str
    objective: float
    objective_before: float
    seconds: float
    ingredients: tuple[Ingredient, ...]
    pairs: tuple[PairRow, ...]
    merged: tuple[Score, ...]
    unaligned: tuple[Score, ...]


@dataclass(frozen=True, eq=False)
class ManyModels:
    """The models themselves.

    Attributes:
        aligned: in the order given, each computing what it did.
        merged: their mean.
        study: what was measured.
    """

    aligned: tuple[Weights, ...]
    merged: Weights
    study: ManyStudy


def align_models(
    checkpoints: Sequence[Checkpoint],
    names: Sequence[str],
    task: Task,
    *,
    method: Method | Literal["activation"] = "universe",
    restarts: int = 1,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> ManyModels:
    """Align checkpoints of one task with one another, merge them, and measure all.

    Args:
        checkpoints: two or more; the first one's order of units is the common one.
        names: what to call them.
        task: model and data.
        method: as in `match_many`, by weights; or "activation" (`match_many_activations`).
        restarts: starts of the matching.
        seed: of the matching.
        device: where losses are measured; matching by weights runs on the CPU.
        progress: shows what takes long.

    Raises:
        SymmetryError: the model cannot be traced.
        SettingError: the settings are out of range.
    """
    shown = progress or Silent()
    models = [checkpoint.weights for checkpoint in checkpoints]
    symmetry = discover(task.traceable, task.example)
    began = time.perf_counter()
    anew, saved = Landscape(task, device), Landscape(task, device, "keep")
    if method == "activation":
        found = match_many_activations(models, symmetry, anew, restarts=restarts, seed=seed, progress=shown)
    else:
        found = match_many(models, symmetry, method=method, restarts=restarts, seed=seed, progress=shown)
    seconds = time.perf_counter() - began
    aligned = [each.apply(model) for each, model in zip(found, models, strict=True)]
    merged = mean_of(models, found, anew)
    plain = anew.settled([combine([1 / len(models)] * len(models), models)])
    pairs = _pairs(names, models, aligned)
    study = ManyStudy(
        method, found[0].outcome.value, sum(p.after for p in pairs), sum(p.before for p in pairs), seconds,
        tuple(
            Ingredient(
                name, str(each.path), each.sha256, each.unwrapped,
                fmean([*alignment.moved.values()] or [0.0]), scores(each.weights, saved, shown),
            )
            for name, each, alignment in zip(names, checkpoints, found, strict=True)
        ),
        pairs, scores(merged, saved, shown), scores(plain, saved, shown),
    )  # fmt: skip
    return ManyModels(tuple(aligned), merged, study)


def _pairs(
    names: Sequence[str], models: Sequence[Weights], aligned: Sequence[Weights]
) -> tuple[PairRow, ...]:
    norms = [model.norm() for model in models]
    return tuple(
        PairRow(names[i], names[j], models[i].dot(models[j]), aligned[i].dot(aligned[j]), norms[i] * norms[j])
        for i, j in itertools.combinations(range(len(models)), 2)
    )
