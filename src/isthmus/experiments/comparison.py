"""Methods of matching side by side: what each reaches, what it costs, and what repair adds."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from isthmus.barriers import Barrier, Profile
from isthmus.errors import SettingError
from isthmus.experiments.measuring import barriers_of, end_record, provenance_of
from isthmus.experiments.records import End
from isthmus.identity import digest_of
from isthmus.io.checkpoints import Checkpoint
from isthmus.io.runs import Run
from isthmus.landscape import Landscape, Task
from isthmus.landscape.abstract import SPLITS
from isthmus.match.methods import METHODS, Question, match_by
from isthmus.merge.repaired import LineRepair, repaired_line
from isthmus.progress import Progress, Silent, Titled
from isthmus.repair.batchnorm import batchnorm_layers
from isthmus.scores import Score, score
from isthmus.symmetry import Outcome, Symmetry, discover
from isthmus.weights import Weights

NAIVE = "none"
"""The name of the row without matching."""

REPAIRS: dict[str, LineRepair] = {"none": "none", "reset": "reset", "repair": "exact"}
"""Names of repairs -> how the points of a line are repaired."""


@dataclass(frozen=True)
class ComparisonSettings:
    """What is compared, and on what.

    Attributes:
        methods: names from `METHODS`.
        repairs: names from `REPAIRS`; "reset" is left out for networks without batch norm.
        points: positions on each line, the ends included; an odd number, so that the midpoint is one.
        examples: of each split that the lines are measured on; None for all.
        recalibration: training examples for statistics, of batch norm and of activations.
        restarts: of weight matching.
        seed: of everything random.
        device: where to compute.
    """

    methods: tuple[str, ...] = tuple(METHODS)
    repairs: tuple[str, ...] = tuple(REPAIRS)
    points: int = 11
    examples: int | None = 2000
    recalibration: int = 2048
    restarts: int = 1
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        for given, known, what in ((self.methods, METHODS, "method"), (self.repairs, REPAIRS, "repair")):
            for name in given:
                if name not in known:
                    raise SettingError(f"expected a {what} ({', '.join(known)}), got {name!r}")
            if len(set(given)) < len(given):
                raise SettingError(f"each {what} is compared once, got {', '.join(given)}")
        for name, least in (("examples", 1), ("recalibration", 2), ("restarts", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise SettingError(f"{name} must be at least {least}, got {value}")
        if self.points < 3 or self.points % 2 == 0:
            raise SettingError(f"a comparison needs an odd number of points, 3 at least, got {self.points}")

    def landscape(self, task: Task) -> Landscape:
        """Where lines are measured: so many examples, statistics measured on so many."""
        return Landscape(task, self.device, recalibration=self.recalibration, limit=self.examples)


@dataclass(frozen=True)
class ComparedMethod:
    """What a method of matching found.

    Attributes:
        method: its name; `NAIVE` for none.
        outcome: how it ended, a sentence.
        objective: what it maximised, in its own unit; nan for none.
        inner_product: ⟨A, π(B)⟩.
        distance: ‖A − π(B)‖.
        seconds: wall time of the matching.
        cpu_seconds: processor time of the matching, all threads together.
    """

    method: str
    outcome: str
    objective: float
    inner_product: float
    distance: float
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True, eq=False)
class ComparedLine:
    """The line from A to π(B), each point repaired.

    Attributes:
        method: of the matching.
        repair: its name.
        profiles: on train and test.
        barriers: loss and error, above mean and chord, train and test.
        midpoint: the scores of the midpoint, on the same examples.
        seconds: wall time of repairing and measuring.
    """

    method: str
    repair: str
    profiles: tuple[Profile, ...]
    barriers: tuple[Barrier, ...]
    midpoint: tuple[Score, ...]
    seconds: float

    def barrier(self, of: str = "error", split: str = "test", above: str = "mean") -> Barrier:
        """The barrier of this quantity on this split."""
        return next(b for b in self.barriers if (b.of, b.split, b.above) == (of, split, above))

    def score(self, split: str = "test") -> Score:
        """The midpoint's score on this split."""
        return next(score for score in self.midpoint if score.split == split)


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """All methods on one pair of networks.

    Attributes:
        task: the task's name.
        note: what the task says of its data.
        ends: A and B, as saved, on all examples.
        methods: one each, `NAIVE` first.
        lines: one for each method and repair.
        provenance: versions, settings, the command.
    """

    task: str
    note: str
    ends: tuple[End, End]
    methods: tuple[ComparedMethod, ...]
    lines: tuple[ComparedLine, ...]
    provenance: dict[str, str]

    def __repr__(self) -> str:
        return f"Comparison({self.task}; {len(self.methods)} methods, {len(self.lines)} lines)"

    def method(self, name: str) -> ComparedMethod:
        """What the method of this name found."""
        return next(found for found in self.methods if found.method == name)

    def line(self, method: str, repair: str) -> ComparedLine | None:
        """The line of a method and repair, if it was measured."""
        return next((line for line in self.lines if (line.method, line.repair) == (method, repair)), None)


def compare_matchings(
    task: Task,
    a: Checkpoint,
    b: Checkpoint,
    settings: ComparisonSettings | None = None,
    *,
    run: Run | None = None,
    command: str = "",
    symmetry: Symmetry | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Align B to A by every method, and measure the line to each result under every repair.

    Args:
        task: model, data and loss.
        a: the network that stays, in the task's layout.
        b: the network that is aligned to it, likewise.
        settings: what is compared.
        run: keeps every result and resumes; nothing is kept without it.
        command: told in the provenance.
        symmetry: of the task's model, if it is known already.
        progress: shows bars.
    """
    settings, progress = settings or ComparisonSettings(), progress or Silent()
    if run is not None:
        return _Comparing(task, a, b, settings, run, progress, symmetry).told(command)
    with TemporaryDirectory(prefix="isthmus-") as folder:
        passing = Run.open(Path(folder), "compare", {})
        return _Comparing(task, a, b, settings, passing, progress, symmetry).told(command)


def measure_line(
    ends: tuple[Weights, Weights],
    landscape: Landscape,
    method: str,
    repair: str,
    settings: ComparisonSettings,
    symmetry: Symmetry,
    progress: Progress | None = None,
) -> tuple[ComparedLine, Weights]:
    """Repair the points of a line and measure them on both splits; also gives the midpoint as a model."""
    began, middle = time.perf_counter(), settings.points // 2
    line = repaired_line(
        *ends, landscape, settings.points, REPAIRS[repair],
        examples=settings.recalibration, symmetry=symmetry, progress=progress,
    )  # fmt: skip
    found = tuple(line.profile(landscape, split, progress=progress) for split in SPLITS)
    scored = tuple(score(each.evaluation, middle) for each in found)
    barriers = barriers_of(found, settings.seed)
    seconds = time.perf_counter() - began
    return ComparedLine(method, repair, found, barriers, scored, seconds), line.points[middle]


def comparison_identity(
    task: Task, a: Checkpoint, b: Checkpoint, settings: ComparisonSettings
) -> dict[str, object]:
    """All that determines the results of `compare_matchings`, but the names of methods and repairs.

    A run may be given again with more methods: those that are there are not computed anew.
    """
    fixed = {name: value for name, value in asdict(settings).items() if name not in ("methods", "repairs")}
    return {
        "task": task.name,
        **{name: digest_of(part) for name, part in task.identity.items()},
        "A": a.sha256,
        "B": b.sha256,
        "isthmus": version("isthmus"),
        "torch": torch.__version__,
        **fixed,
    }


@dataclass
class _Comparing:
    """The parts of a comparison; each result is asked of the run first, and computed if it is not there."""

    task: Task
    a: Checkpoint
    b: Checkpoint
    settings: ComparisonSettings
    run: Run
    progress: Progress
    known: Symmetry | None

    def told(self, command: str) -> Comparison:
        """All methods, all lines."""
        ends = (self._end("A", self.a), self._end("B", self.b))
        methods = tuple(self._method(name) for name in (NAIVE, *self.settings.methods))
        lines = tuple(self._lines())
        return Comparison(self.task.name, self.task.note, ends, methods, lines, self._provenance(command))

    @cached_property
    def landscape(self) -> Landscape:
        return self.settings.landscape(self.task)

    @cached_property
    def symmetry(self) -> Symmetry:
        return self.known or discover(self.task.traceable, self.task.example)

    def _end(self, name: str, given: Checkpoint) -> End:
        whole = Landscape(self.task, self.settings.device, "keep")
        return self.run.record(
            f"end-{name.lower()}", End, lambda: end_record(name, given, whole, self.progress)
        )

    def _method(self, name: str) -> ComparedMethod:
        """Match, keep the aligned B, and tell what it cost."""

        def matched() -> ComparedMethod:
            a, b = self.a.weights, self.b.weights
            if name == NAIVE:
                return ComparedMethod(
                    name, Outcome.IDENTITY.value, math.nan, a.dot(b), a.distance(b), 0.0, 0.0
                )
            shown = Titled(self.progress, name)
            question = Question(
                a, b, self.symmetry, self.landscape, self.settings.restarts, self.settings.seed, shown
            )
            wall, processor = time.perf_counter(), time.process_time()
            found = match_by(name, question)
            wall, processor = time.perf_counter() - wall, time.process_time() - processor
            image = self.run.weights(f"aligned-{name}", lambda: found.apply(b), self.task.network)
            reached = math.nan if found.objective is None else found.objective
            return ComparedMethod(
                name, found.outcome.value, reached, a.dot(image), a.distance(image), wall, processor
            )

        return self.run.record(f"matching-{name}", ComparedMethod, matched)

    def _aligned(self, method: str) -> Weights:
        if method == NAIVE:
            return self.b.weights
        network = self.task.network
        return self.run.weights(f"aligned-{method}", lambda: self._unwritten(method), network)

    def _unwritten(self, method: str) -> Weights:
        raise SettingError(
            f"{self.run.path(f'aligned-{method}.safetensors')} is missing, though its record is there: "
            "delete the folder and give the command again"
        )

    def _lines(self) -> Iterator[ComparedLine]:
        normed = bool(batchnorm_layers(self.task.network.module))
        for method in (NAIVE, *self.settings.methods):
            for repair in self.settings.repairs:
                if repair != "reset" or normed:
                    yield self._line(method, repair)

    def _line(self, method: str, repair: str) -> ComparedLine:
        def measured() -> ComparedLine:
            ends = (self.a.weights, self._aligned(method))
            shown = Titled(self.progress, f"{method}, {repair}")
            return measure_line(ends, self.landscape, method, repair, self.settings, self.symmetry, shown)[0]

        return self.run.record(f"line-{method}-{repair}", ComparedLine, measured)

    def _provenance(self, command: str) -> dict[str, str]:
        identity = comparison_identity(self.task, self.a, self.b, self.settings)
        return provenance_of(identity, command, apart=("A", "B"))
