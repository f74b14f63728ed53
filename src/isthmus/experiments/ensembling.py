"""The study of an ensemble: given models, points of a fitted path, or snapshots of a cyclical training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Literal

import torch
from torch import Tensor

from isthmus.ensembles import Averaged, Ensemble, average_of, ensemble, weight_average
from isthmus.errors import SettingError
from isthmus.experiments.cyclical import CyclicalTraining, cycle_settings, train_cyclical
from isthmus.experiments.measuring import provenance_of
from isthmus.experiments.records import Fit
from isthmus.fanout import Fanout
from isthmus.identity import digest_of
from isthmus.io.checkpoints import Checkpoint
from isthmus.io.runs import Run
from isthmus.landscape import Landscape, Task
from isthmus.path import AbstractPath
from isthmus.progress import Progress, Silent
from isthmus.repair.batchnorm import policy_named
from isthmus.scores import Score, scores
from isthmus.weights import Weights

Source = Literal["models", "path", "snapshots"]

_TRIAL = 2
"""Examples that a trial takes."""

_KINDS = {"segment": "a straight line", "bezier": "a Bézier curve", "chain": "a polygonal chain"}


@dataclass(frozen=True)
class EnsembleSettings:
    """How an ensemble is measured.

    Attributes:
        points: how many of a path or a simplex.
        spacing: of points on a path: "uniform" in t or "arc".
        averaged: "probabilities" or "outputs"; None where the task's default loss tells.
        examples: examples of each split (None: all).
        batchnorm: policy for the members; None for what suits them: "keep" for models and snapshots,
            "recalibrate" for points of a path.
        recalibration: training examples that batch-norm statistics are measured on.
        seed: of everything random here.
        device: where to compute.
    """

    points: int = 5
    spacing: Literal["uniform", "arc"] = "uniform"
    averaged: Averaged | None = None
    examples: int | None = None
    batchnorm: str | None = None
    recalibration: int = 2048
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.points < 1:
            raise SettingError(f"an ensemble needs at least 1 point, got {self.points}")
        if self.spacing not in ("uniform", "arc"):
            raise SettingError(f"expected the spacing 'uniform' or 'arc', got {self.spacing!r}")
        if self.averaged not in (None, "probabilities", "outputs"):
            raise SettingError(f"expected to average 'probabilities' or 'outputs', got {self.averaged!r}")
        if self.batchnorm is not None:
            policy_named(self.batchnorm)

    def landscape(self, task: Task, policy: str) -> Landscape:
        """Where members are measured that this policy suits."""
        return Landscape(task, self.device, self.batchnorm or policy, self.recalibration, limit=self.examples)


@dataclass(frozen=True)
class CycleOptions:
    """The cycles of a training as they were asked for; None leaves a number to the recipe.

    Attributes:
        cycles: snapshots to take.
        period: steps from one to the next, even.
        high: the highest rate.
        low: the lowest rate.
    """

    cycles: int = 6
    period: int | None = None
    high: float | None = None
    low: float | None = None


@dataclass(frozen=True)
class Origin:
    """A file that members come from.

    Attributes:
        name: what it is called.
        source: the file.
        sha256: of the file, or of the weights.
        notes: what was unwrapped or filled in while reading it.
    """

    name: str
    source: str
    sha256: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Cycles:
    """How the snapshots were trained.

    Attributes:
        start: the scores of the model that the training began at, as saved.
        rates: the learning rate of every step, shape (steps,).
        steps: after how many steps each snapshot was taken.
        fit: the training loss and every setting.
    """

    start: tuple[Score, ...]
    rates: Tensor
    steps: tuple[int, ...]
    fit: Fit


@dataclass(frozen=True, eq=False, repr=False)
class EnsembleStudy:
    """An ensemble, measured.

    Attributes:
        task: the task's name.
        note: what the task says of its data.
        source: "models", "path" or "snapshots".
        about: what the members are, in a few words.
        origins: the files that they come from.
        ensemble: what was measured.
        cycles: how snapshots were trained; None for others.
        provenance: versions, seeds, device, settings, the command.
    """

    task: str
    note: str
    source: Source
    about: str
    origins: tuple[Origin, ...]
    ensemble: Ensemble
    cycles: Cycles | None
    provenance: dict[str, str]

    def __repr__(self) -> str:
        return f"EnsembleStudy({self.task}, {self.about}; {self.ensemble!r})"


def study_models(
    task: Task,
    models: Mapping[str, Checkpoint],
    settings: EnsembleSettings | None = None,
    *,
    run: Run | None = None,
    command: str = "",
    progress: Progress | None = None,
    fanout: Fanout | None = None,
) -> EnsembleStudy:
    """Average the predictions of trained models.

    Args:
        task: model, data and loss.
        models: checkpoints in the task's layout, by their names; two or more.
        settings: how they are measured.
        run: keeps what is measured; nothing is kept without it.
        command: told in the provenance.
        progress: shows bars.
        fanout: spreads the examples.

    Raises:
        SettingError: fewer than two models, or settings out of range.
    """
    settings = settings or EnsembleSettings()
    if len(models) < 2:
        raise SettingError(
            f"expected two models or more, got {len(models)}: give a path (--path), or train snapshots from "
            "the one model (--fge)"
        )
    landscape = settings.landscape(task, "keep")

    def measured() -> Ensemble:
        return ensemble(
            [each.weights for each in models.values()], landscape, names=list(models),
            averaged=settings.averaged, seed=settings.seed, progress=progress, fanout=fanout,
        )  # fmt: skip

    found = measured() if run is None else run.record("ensemble", Ensemble, measured)
    origins = origins_of(models)
    return EnsembleStudy(
        task.name, task.note, "models", f"{len(models)} models", origins, found, None,
        _provenance(task, origins, settings, None, command),
    )  # fmt: skip


def study_path(
    task: Task,
    path: AbstractPath,
    origins: Sequence[Origin],
    settings: EnsembleSettings | None = None,
    *,
    run: Run | None = None,
    command: str = "",
    progress: Progress | None = None,
    fanout: Fanout | None = None,
) -> EnsembleStudy:
    """Average the predictions of points of a path, or of random points of a simplex.

    Args:
        task: model, data and loss.
        path: in the task's layout.
        origins: the files of its controls.
        settings: how many points, and how they are measured.
        run: keeps what is measured; nothing is kept without it.
        command: told in the provenance.
        progress: shows bars.
        fanout: spreads the examples.
    """
    settings = settings or EnsembleSettings()
    task.network.require(path.controls[0])
    landscape = settings.landscape(task, "recalibrate")

    def measured() -> Ensemble:
        return ensemble(
            path, landscape, points=settings.points, spacing=settings.spacing, averaged=settings.averaged,
            seed=settings.seed, progress=progress, fanout=fanout,
        )  # fmt: skip

    found = measured() if run is None else run.record("ensemble", Ensemble, measured)
    about = f"{settings.points} points of {_KINDS.get(path.kind, f'a {path.kind}')}"
    return EnsembleStudy(
        task.name, task.note, "path", about, tuple(origins), found, None,
        _provenance(task, origins, settings, None, command),
    )  # fmt: skip


def study_snapshots(
    task: Task,
    start: Checkpoint,
    options: CycleOptions | None = None,
    settings: EnsembleSettings | None = None,
    *,
    run: Run,
    command: str = "",
    progress: Progress | None = None,
    fanout: Fanout | None = None,
) -> EnsembleStudy:
    """Train snapshots from one model under a cyclical rate, and average their predictions.

    Args:
        task: model, data, loss and recipe.
        start: a trained model in the task's layout.
        options: the cycles.
        settings: how the ensemble is measured.
        run: keeps the training's state and what came out: `snapshot-1.safetensors` and so on, and
            `average.safetensors`, the mean of their weights with batch-norm statistics measured anew.
        command: told in the provenance.
        progress: shows bars.
        fanout: spreads the examples.

    Source: Garipov et al. 2018, arXiv 1802.10026, section 4.
    """
    settings, options, shown = settings or EnsembleSettings(), options or CycleOptions(), progress or Silent()
    landscape, saved = settings.landscape(task, "keep"), Landscape(task, settings.device, "keep")
    store, trained = run.store("cycles"), list[CyclicalTraining]()

    def training() -> CyclicalTraining:
        if not trained:
            trained.append(
                train_cyclical(
                    task, start.weights, seed=settings.seed, device=settings.device, store=store,
                    progress=shown, **asdict(options),
                )
            )  # fmt: skip
        return trained[0]

    def cycled() -> Cycles:
        found, plan = training(), training().settings
        rates = torch.tensor([plan.rate_at(step) for step in range(plan.steps)], dtype=torch.float64)
        fit = Fit(found.history, "the schedule was completed", plan.steps, asdict(plan))
        return Cycles(scores(start.weights, saved, shown), rates, found.steps, fit)

    def taken(number: int) -> Weights:
        name = f"snapshot-{number + 1}"
        return run.weights(name, lambda: training().snapshots[number], task.network)

    snapshots = [taken(number) for number in range(options.cycles)]
    cycles = run.record("cycles", Cycles, cycled)
    store.clear()
    run.weights("average", lambda: weight_average(snapshots, landscape), task.network)
    names = [f"snapshot {number}" for number in range(1, options.cycles + 1)]
    found = run.record(
        "ensemble",
        Ensemble,
        lambda: ensemble(
            snapshots, landscape, names=names, averaged=settings.averaged, seed=settings.seed,
            progress=shown, fanout=fanout,
        ),
    )  # fmt: skip
    origins = origins_of({"start": start})
    return EnsembleStudy(
        task.name, task.note, "snapshots", f"{len(names)} snapshots of a cyclical training", origins, found,
        cycles, _provenance(task, origins, settings, options, command),
    )  # fmt: skip


def require_averaging(
    task: Task,
    settings: EnsembleSettings,
    options: CycleOptions | None = None,
    member: Weights | None = None,
) -> None:
    """Refuse, before anything is computed, what would be refused after it.

    Args:
        task: model, data and loss.
        settings: how the ensemble will be measured.
        options: the cycles, if snapshots are trained.
        member: weights whose predictions on a few examples are averaged for a trial.

    Raises:
        SettingError: it is not known what to average, or the cycles are none, or a setting is out of range.
        TaskError: the model's outputs cannot be averaged so.
    """
    average_of(task, settings.averaged)
    settings.landscape(task, "keep")
    if member is not None:
        few = Landscape(task, settings.device, "keep", limit=_TRIAL)
        ensemble([member, member], few, averaged=settings.averaged)
    if options is not None:
        cycle_settings(task, seed=settings.seed, **asdict(options))


def ensemble_identity(
    task: Task, origins: Sequence[Origin], settings: EnsembleSettings, options: CycleOptions | None = None
) -> dict[str, object]:
    """All that determines the results of a study of an ensemble: what a run of it is named by."""
    return {
        "task": task.name,
        **{name: digest_of(part) for name, part in task.identity.items()},
        "members": ", ".join(f"{origin.name} {origin.sha256}" for origin in origins),
        "isthmus": version("isthmus"),
        "torch": torch.__version__,
        **asdict(settings),
        **(asdict(options) if options else {}),
    }


def origins_of(models: Mapping[str, Checkpoint]) -> tuple[Origin, ...]:
    """The files that models come from."""
    return tuple(Origin(name, str(each.path), each.sha256, each.unwrapped) for name, each in models.items())


def _provenance(
    task: Task,
    origins: Sequence[Origin],
    settings: EnsembleSettings,
    options: CycleOptions | None,
    command: str,
) -> dict[str, str]:
    identity = ensemble_identity(task, origins, settings, options)
    return provenance_of(identity, command, apart=("members",))
