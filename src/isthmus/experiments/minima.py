"""Many trained networks of one task: their tree of low passes, resumable edge by edge."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from isthmus.connect.abstract import AbstractConnector, Connection, load_controls, save_controls
from isthmus.connect.abstract import find_saddle as highest_point
from isthmus.connect.kinds import connector_named
from isthmus.connect.minima import (
    SADDLE_POINTS,
    edge_of,
    named,
    require_edges,
    require_finite,
    saddle_of,
    straight_distances,
)
from isthmus.connect.spanning import Edge, Trial, grow, tree_of
from isthmus.errors import SettingError
from isthmus.experiments.measuring import provenance_of
from isthmus.experiments.minimarecords import EdgeStudy, MinimaStudy, Minimum, ratio_of
from isthmus.fanout import Fanout, Serial
from isthmus.identity import digest_of
from isthmus.io.checkpoints import Checkpoint
from isthmus.io.runs import Run
from isthmus.landscape import Landscape, Task
from isthmus.landscape.abstract import SPLITS
from isthmus.path import AbstractPath
from isthmus.progress import Progress, Silent, Titled
from isthmus.repair.batchnorm import policy_named
from isthmus.scores import score


@dataclass(frozen=True)
class MinimaSettings:
    """How many networks are connected to a tree.

    Attributes:
        kind: of the paths, a name of `isthmus.connect.kinds`.
        edges: pairs to test at most, those of the star included; None: until none is left that can lower the
            tree.
        bends: inner controls of a curve, or pivots that a band begins with; the connector's own default if
            they are not given.
        steps: gradient steps of a path's fit; the connector's default if neither they nor epochs are given.
        epochs: passes over the training data of a curve's fit, instead of steps.
        rate: peak rate of a fit; the connector's default if it is not given.
        examples: examples of each split that losses are measured on (None: all), at minima and saddles alike.
        batchnorm: policy at minima and along paths alike.
        recalibration: training examples that batch-norm statistics are measured on.
        seed: of everything random here.
        device: where to compute.
    """

    kind: str = "neb"
    edges: int | None = None
    bends: int | None = None
    steps: int | None = None
    epochs: float | None = None
    rate: float | None = None
    examples: int | None = None
    batchnorm: str = "recalibrate"
    recalibration: int = 2048
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        policy_named(self.batchnorm)
        for name in ("bends", "steps", "examples", "recalibration"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingError(f"{name} must be at least 1, got {value}")
        for name in ("epochs", "rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise SettingError(f"{name} must be a number above 0, got {value}")
        _ = self.connector

    @property
    def connector(self) -> AbstractConnector:
        """The method that joins a pair."""
        return connector_named(
            self.kind, self.bends, epochs=self.epochs, steps=self.steps, rate=self.rate, seed=self.seed
        )


def study_minima(
    task: Task,
    checkpoints: Sequence[Checkpoint],
    names: Sequence[str],
    settings: MinimaSettings | None = None,
    *,
    run: Run | None = None,
    command: str = "",
    progress: Progress | None = None,
    fanout: Fanout | None = None,
) -> MinimaStudy:
    """Connect checkpoints of one task to a tree of low passes, and measure it on train and held-out data.

    Args:
        task: model, data and loss.
        checkpoints: two or more, in the task's layout.
        names: what to call them.
        settings: how they are connected.
        run: keeps every edge and resumes; nothing is kept without it.
        command: told in the provenance.
        progress: shows bars.
        fanout: spreads the star's edges.

    Returns:
        The record that reports are made from. In the run's folder: `paths/I-J/` (the controls of the path
        between minimum I and minimum J, numbered from 0), `records/`.

    Raises:
        SettingError, LayoutError: as `minima_tree`.
    """
    settings, progress, fanout = settings or MinimaSettings(), progress or Silent(), fanout or Serial()
    if run is not None:
        return _Grove(task, checkpoints, names, settings, run, progress, fanout).studied(command)
    with TemporaryDirectory(prefix="isthmus-") as folder:
        passing = Run.open(Path(folder), "minima", {})
        return _Grove(task, checkpoints, names, settings, passing, progress, fanout).studied(command)


def minima_identity(
    task: Task, checkpoints: Sequence[Checkpoint], names: Sequence[str], settings: MinimaSettings
) -> dict[str, object]:
    """All that determines the results of `study_minima`: what a run of it is named by."""
    return {
        "task": task.name,
        **{name: digest_of(part) for name, part in task.identity.items()},
        **{f"minimum {name}": each.sha256 for name, each in zip(names, checkpoints, strict=True)},
        "isthmus": version("isthmus"),
        "torch": torch.__version__,
        **asdict(settings),
    }


def check_minima(checkpoints: Sequence[Checkpoint], names: Sequence[str], edges: int | None) -> Tensor:
    """The distances between the minima, after refusing what makes no tree, before anything is computed."""
    points = [checkpoint.weights for checkpoint in checkpoints]
    distances = straight_distances(points, named(points, names))
    require_edges(len(points), edges)
    return distances


def load_paths(study: MinimaStudy, folder: Path, i: int, j: int) -> tuple[AbstractPath, ...]:
    """The paths along the tree from minimum i to minimum j, read from a run's folder.

    Each goes from the minimum of the lower number to the other one.

    Args:
        study: of the run.
        folder: the run's.
        i: the number of the minimum to begin at.
        j: of the one to end at.
    """
    kinds = {tested.edge.pair: tested.kind for tested in study.tested}
    way = study.tree.way(i, j)
    pairs = [(min(pair), max(pair)) for pair in itertools.pairwise(way)]
    return tuple(load_controls(_controls(folder, pair), kinds[pair]) for pair in pairs)


def _controls(folder: Path, pair: tuple[int, int]) -> Path:
    return folder / "paths" / f"{pair[0]}-{pair[1]}"


@dataclass
class _Grove:
    """The study's parts; each is asked of the run first, and computed if it is not there."""

    task: Task
    checkpoints: Sequence[Checkpoint]
    names: Sequence[str]
    settings: MinimaSettings
    run: Run
    progress: Progress
    fanout: Fanout

    def studied(self, command: str) -> MinimaStudy:
        """All parts, in order."""
        s = self.settings
        distances = check_minima(self.checkpoints, self.names, s.edges)
        self.landscape = Landscape(self.task, s.device, s.batchnorm, s.recalibration, limit=s.examples)
        minima = tuple(self._minimum(number) for number in range(len(self.names)))
        losses, held_out = (
            torch.tensor([each.score(split).loss for each in minima], dtype=torch.float64) for split in SPLITS
        )
        require_finite(losses, self.names)
        tested: list[EdgeStudy] = []

        def test(trials: Sequence[Trial]) -> list[Edge]:
            alone = self.fanout if len(trials) == 1 else None
            done = self.fanout.map(lambda trial: self._tested(trial, losses, minima[0], alone), trials)
            tested.extend(done)
            return [each.edge for each in done]

        edges, ending = grow(losses, distances, test, s.edges)
        tree = tree_of(self.names, "train", losses, distances, edges, ending)
        beside = [_held_out(each, held_out) for each in tested]
        return MinimaStudy(
            self.task.name, self.task.note, s.kind, minima, tree,
            tree_of(self.names, "test", held_out, distances, beside, ending), tuple(tested),
            tuple(ratio_of(minima, [tested[k] for k in tree.spanning], split) for split in SPLITS),
            self._provenance(command),
        )  # fmt: skip

    def _minimum(self, number: int) -> Minimum:
        given, name = self.checkpoints[number], self.names[number]

        def measured() -> Minimum:
            shown = Titled(self.progress, name)
            found = tuple(
                score(self.landscape.evaluate([given.weights], split, progress=shown)) for split in SPLITS
            )
            return Minimum(name, str(given.path), given.sha256, given.unwrapped, found)

        return self.run.record(f"minimum-{number}", Minimum, measured)

    def _tested(self, trial: Trial, losses: Tensor, one: Minimum, fanout: Fanout | None) -> EdgeStudy:
        """A pair's path, kept in the run's folder, and what was measured on it."""
        name = f"edge-{trial.first}-{trial.second}"
        store = self.run.store(name)

        def joined() -> EdgeStudy:
            ends = (self.checkpoints[trial.first].weights, self.checkpoints[trial.second].weights)
            shown = Titled(self.progress, f"{self.names[trial.first]} to {self.names[trial.second]}")
            found = self.settings.connector.connect(ends, self.landscape, store=store, progress=shown)
            saddle = saddle_of(found, self.landscape, one.score("train").examples, fanout)
            if saddle is not None:
                save_controls(found.path, _controls(self.run.folder, (trial.first, trial.second)))
            return self._measured(edge_of(trial, found, saddle, losses), found, fanout)

        done = self.run.record(name, EdgeStudy, joined)
        store.clear()
        return done

    def _measured(self, edge: Edge, found: Connection, fanout: Fanout | None) -> EdgeStudy:
        if edge.saddle is None:
            return EdgeStudy(edge, found.path.kind, (), None, found.settings)
        top = found.path.at(torch.tensor([edge.saddle.t], dtype=torch.float64))
        scored = tuple(score(self.landscape.evaluate(top, split)) for split in SPLITS)
        held_out = highest_point(found.path, self.landscape, SADDLE_POINTS, "test", fanout)
        return EdgeStudy(edge, found.path.kind, scored, held_out, found.settings)

    def _provenance(self, command: str) -> dict[str, str]:
        identity = minima_identity(self.task, self.checkpoints, self.names, self.settings)
        return provenance_of(identity, command, [key for key in identity if key.startswith("minimum ")])


def _held_out(tested: EdgeStudy, losses: Tensor) -> Edge:
    """The same edge with the height of its path on held-out data."""
    edge, saddle = tested.edge, tested.held_out
    if saddle is None or not math.isfinite(saddle.loss):
        return replace(edge, saddle=saddle, height=math.inf)
    ends = max(float(losses[edge.first]), float(losses[edge.second]))
    return replace(edge, saddle=saddle, height=max(saddle.loss, ends))
