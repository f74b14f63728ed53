"""How long is the way between two networks at each level of the loss? One string a level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from isthmus.barriers import Quantity
from isthmus.connect.abstract import Connection, Outcome, Saddle, save_controls
from isthmus.connect.beads import highest_by, values_of
from isthmus.connect.string import StringConnector, require_ends_below
from isthmus.errors import SettingError
from isthmus.experiments.measuring import end_record, provenance_of
from isthmus.experiments.records import End
from isthmus.fanout import Fanout
from isthmus.identity import digest_of
from isthmus.io.checkpoints import Checkpoint
from isthmus.io.runs import Run
from isthmus.landscape import Landscape, Task
from isthmus.path import AbstractPath, Segment
from isthmus.progress import Progress, Silent, Titled
from isthmus.repair.batchnorm import policy_named

_LOWEST = 1.1
"""The lowest of the levels chosen automatically, over the worse end's value."""


@dataclass(frozen=True)
class LevelSettings:
    """At which levels a pair is searched, and how.

    Attributes:
        levels: of the training loss (or error); none: `count` of them, from near the highest value of the
            straight line down to 1.1 times the worse end's, in equal ratios.
        count: how many are chosen where none is given.
        of: what the levels are of, "loss" or "error".
        tolerance: see `string_sampling`, as for all up to `rate`.
        alpha: likewise.
        depth: likewise.
        positions: likewise.
        steps: likewise; None: as many as the task's recipe takes.
        rate: likewise; None: 0.3 of the recipe's.
        examples: of each split, used along paths (None: all). Ends always use all.
        batchnorm: policy along paths.
        recalibration: training examples that batch-norm statistics are measured on.
        seed: of everything random here.
        device: where to compute.
    """

    levels: tuple[float, ...] = ()
    count: int = 6
    of: Quantity = "loss"
    tolerance: float = 0.02
    alpha: float = 0.98
    depth: int = 10
    positions: int = 19
    steps: int | None = None
    rate: float | None = None
    examples: int | None = None
    batchnorm: str = "recalibrate"
    recalibration: int = 2048
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", tuple(sorted(set(self.levels), reverse=True)))
        policy_named(self.batchnorm)
        if not all(math.isfinite(level) for level in self.levels):
            raise SettingError("the levels must be finite numbers")
        if self.count < 2:
            raise SettingError(f"the number of levels must be at least 2, got {self.count}")
        self.connector(1.0)

    def connector(self, level: float) -> StringConnector:
        """The search at one level."""
        return StringConnector(
            level=level, of=self.of, tolerance=self.tolerance, alpha=self.alpha, depth=self.depth,
            positions=self.positions, steps=self.steps, rate=self.rate, seed=self.seed,
        )  # fmt: skip


@dataclass(frozen=True)
class LevelRow:
    """What the search at one level found.

    Attributes:
        level: L₀.
        outcome: how it ended.
        stopped_by: what ended a search without success: "depth", "steps" or "divergence"; else empty.
        beads: inner controls of the chain.
        depth: how often a piece was halved.
        steps: gradient steps of all beads.
        length: the chain's length in weight space.
        straight: the straight distance between the ends.
        highest: the chain's highest tested position on the training split.
        held_out: its highest position on held-out data, at an even grid as fine.
        controls: the folder of its controls within the run's.
    """

    level: float
    outcome: Outcome
    stopped_by: str
    beads: int
    depth: int
    steps: int
    length: float
    straight: float
    highest: Saddle
    held_out: Saddle
    controls: str

    @property
    def connected(self) -> bool:
        """Whether a path below the level was found."""
        return self.outcome is Outcome.CONNECTED_AT_LEVEL

    @property
    def ratio(self) -> float:
        """The normalised length: the chain's length over the straight distance."""
        return self.length / self.straight if self.straight else 1.0


@dataclass(frozen=True, eq=False, repr=False)
class LevelStudy:
    """Length against level for two networks.

    Attributes:
        task: the task's name.
        note: what the task says of its data.
        ends: A and B as saved, on all examples.
        of: what the levels are of, "loss" or "error".
        tolerance: the share by which a tested position may exceed its level.
        at_ends: the training loss (or error) of A and B along the paths' protocol.
        line: the straight line's highest position on the training split.
        rows: from the highest level to the lowest.
        provenance: versions, settings, the command.
    """

    task: str
    note: str
    ends: tuple[End, End]
    of: str
    tolerance: float
    at_ends: tuple[float, float]
    line: Saddle
    rows: tuple[LevelRow, ...]
    provenance: dict[str, str]

    def __repr__(self) -> str:
        told = (f"{row.level:.3g}: {row.ratio:.3f}" if row.connected else f"{row.level:.3g}: not found"
                for row in self.rows)  # fmt: skip
        return f"LevelStudy({self.task}; length / straight at each level of {self.of}: {', '.join(told)})"


def study_levels(
    task: Task,
    a: Checkpoint,
    b: Checkpoint,
    settings: LevelSettings | None = None,
    *,
    run: Run | None = None,
    command: str = "",
    progress: Progress | None = None,
    fanout: Fanout | None = None,
) -> LevelStudy:
    """Search for a path between two networks at each of several levels of the training loss.

    Every level is a search of its own, from the straight line; see `string_sampling` for what it says.

    Args:
        task: model, data and loss.
        a: the one network, in the task's layout.
        b: the other, likewise.
        settings: the levels, and how each is searched.
        run: keeps every level and the beads of an unfinished one, and resumes; nothing is kept without it.
        command: told in the provenance.
        progress: shows bars.
        fanout: spreads the beads of one depth, and evaluations.

    Returns:
        The record that reports are made from. In the run's folder: `level-1/`, … (the chains' controls, from
        the highest level to the lowest), `records/`.

    Raises:
        SettingError: a level lies below an end's own loss; nothing has been searched then.

    Source: Freeman & Bruna 2017, arXiv 1611.01540, section 4, figure 1.
    """
    settings, progress = settings or LevelSettings(), progress or Silent()
    if run is not None:
        return _Levels(task, a, b, settings, run, progress, fanout).told(command)
    with TemporaryDirectory(prefix="isthmus-") as folder:
        passing = Run.open(Path(folder), "levels", {})
        try:
            return _Levels(task, a, b, settings, passing, progress, fanout).told(command)
        finally:
            passing.close()


def levels_identity(task: Task, a: Checkpoint, b: Checkpoint, settings: LevelSettings) -> dict[str, object]:
    """All that determines the results of `study_levels`: what a run of it is named by."""
    return {
        "task": task.name,
        **{name: digest_of(part) for name, part in task.identity.items()},
        "A": a.sha256,
        "B": b.sha256,
        "isthmus": version("isthmus"),
        "torch": torch.__version__,
        **asdict(settings),
    }


def require_levels(task: Task, a: Checkpoint, b: Checkpoint, settings: LevelSettings) -> None:
    """Refuse levels that cannot be reached, before anything is written.

    Raises:
        SettingError: A and B are the same, a level lies below an end's own value, or none is given and
            none can be chosen.

    Cost: one pass over the training split for each end.
    """
    if not a.weights.distance(b.weights):
        raise SettingError(
            f"{a.path} and {b.path} are the same network: there is no path to search between them; give two"
        )
    with TemporaryDirectory(prefix="isthmus-") as folder:
        passing = Run.open(Path(folder), "levels", {})
        try:
            asked = _Levels(task, a, b, settings, passing, Silent(), None)
            asked.require(settings.levels)
            if not settings.levels and not max(asked.at_ends) > 0:
                raise SettingError(
                    f"both ends have a training {settings.of} of {max(asked.at_ends):.4g}, so that no levels "
                    "in equal ratios lead down to them; give them, with --levels or LevelSettings(levels=…)"
                )
        finally:
            passing.close()


def chosen_levels(ends: Sequence[float], highest: float, count: int) -> tuple[float, ...]:
    """Levels in equal ratios from 0.9 of the straight line's highest value to 1.1 of the worse end's.

    Args:
        ends: values of both ends.
        highest: the highest on the line.
        count: how many.

    Raises:
        SettingError: the line does not rise that far above the ends, or the ends have none.

    Example:
        >>> [round(level, 3) for level in chosen_levels((0.01, 0.02), 2.0, 3)]
        [1.8, 0.199, 0.022]
    """
    low, high = _LOWEST * max(ends), 0.9 * highest
    if not 0 < low < high < math.inf:
        raise SettingError(
            f"no levels can be chosen between the ends' values ({ends[0]:.4g} and {ends[1]:.4g}) and the "
            f"straight line's highest ({highest:.4g}); give them, with --levels or LevelSettings(levels=…)"
        )
    return tuple(high * (low / high) ** (k / (count - 1)) for k in range(count))


@dataclass(frozen=True)
class _Line:
    """The straight line, and what its ends have on it."""

    at_ends: tuple[float, float]
    highest: Saddle


def _row(level: float, found: Connection, held_out: Saddle, controls: str) -> LevelRow:
    """A search as a row; the length is that of the chain's straight pieces."""
    assert found.saddle is not None
    beads, settings = found.path.controls, found.settings
    return LevelRow(
        level, found.outcome, str(settings["stopped_by"]), len(beads) - 2, int(settings["depth_reached"]),
        found.steps, math.fsum(one.distance(two) for one, two in pairwise(beads)),
        beads[0].distance(beads[-1]), found.saddle, held_out, controls,
    )  # fmt: skip


@dataclass
class _Levels:
    """The parts of a study; each result is asked of the run first, and computed if it is not there."""

    task: Task
    a: Checkpoint
    b: Checkpoint
    settings: LevelSettings
    run: Run
    progress: Progress
    fanout: Fanout | None

    def told(self, command: str) -> LevelStudy:
        """Refuse levels that cannot be reached, then search each."""
        s, ends = self.settings, (self._end("A", self.a), self._end("B", self.b))
        line = self.run.record("line", _Line, self._line)
        highest = line.highest.loss if s.of == "loss" else line.highest.error
        levels = s.levels or chosen_levels(line.at_ends, highest, s.count)
        self.require(levels)
        rows = tuple(self._level(number, level) for number, level in enumerate(levels, start=1))
        return LevelStudy(
            self.task.name, self.task.note, ends, s.of, s.tolerance, line.at_ends, line.highest, rows,
            self._provenance(command),
        )  # fmt: skip

    @cached_property
    def landscape(self) -> Landscape:
        """Along paths: the policy in force, so many examples."""
        s = self.settings
        return Landscape(self.task, s.device, s.batchnorm, s.recalibration, limit=s.examples)

    @cached_property
    def segment(self) -> Segment:
        return Segment(self.a.weights, self.b.weights)

    def _end(self, name: str, given: Checkpoint) -> End:
        whole = Landscape(self.task, self.settings.device, "keep")
        return self.run.record(
            f"end-{name.lower()}", End, lambda: end_record(name, given, whole, self.progress)
        )

    def require(self, levels: Sequence[float]) -> None:
        """Refuse a level below an end's own value."""
        for level in levels:
            require_ends_below(self.at_ends, level, self.settings.of)

    @cached_property
    def at_ends(self) -> tuple[float, float]:
        """What both ends have on the training split, as points of the line."""
        points = self.segment.at(torch.tensor([0.0, 1.0]))
        first, last = values_of(self.landscape.evaluate(points, "train"), self.settings.of).tolist()
        return first, last

    def _line(self) -> _Line:
        """The straight line: what its ends have, and its highest position."""
        highest = self._highest(self.segment, 2 * self.settings.positions + 3, "train")
        return _Line(self.at_ends, highest)

    def _level(self, number: int, level: float) -> LevelRow:
        name = f"level-{number}"
        store = self.run.store(name)

        def searched() -> LevelRow:
            shown = Titled(self.progress, f"level {level:.3g}")
            search = replace(self.settings.connector(level), fanout=self.fanout)
            found = search.connect(self.segment.controls, self.landscape, store=store, progress=shown)
            save_controls(found.path, self.run.path(name))
            pieces = len(found.path.controls) - 1
            held_out = self._highest(found.path, pieces * (self.settings.positions + 1) + 1, "test")
            return _row(level, found, held_out, name)

        row = self.run.record(name, LevelRow, searched)
        store.clear()
        return row

    def _highest(self, path: AbstractPath, points: int, split: str) -> Saddle:
        """The highest position of an even grid, by what the levels are of."""
        t = torch.linspace(0, 1, points, dtype=torch.float64)
        shown = Titled(self.progress, "held-out" if split == "test" else "straight line")
        found = self.landscape.evaluate(path.at(t), split, self.fanout, shown)
        return highest_by(found, t, self.settings.of)

    def _provenance(self, command: str) -> dict[str, str]:
        identity = levels_identity(self.task, self.a, self.b, self.settings)
        return provenance_of(identity, command, apart=("A", "B"))
