"""The whole story of two networks: are they connected, how, and what is their merge worth?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from isthmus.connect import AbstractConnector, Outcome
from isthmus.connect.abstract import PATH_KINDS, load_controls, save_controls
from isthmus.connect.kinds import KINDS, connector_named
from isthmus.errors import SettingError
from isthmus.experiments.measuring import end_record, matching_record, provenance_of, study_path
from isthmus.experiments.records import End, Fit, Matching, Merge, PairStudy, PathStudy
from isthmus.fanout import Fanout, Serial
from isthmus.identity import digest_of
from isthmus.io.checkpoints import Checkpoint
from isthmus.io.runs import Run
from isthmus.landscape import Landscape, Task
from isthmus.match.methods import METHODS, Question, match_by
from isthmus.path import AbstractPath, Plane, Segment, spans_plane
from isthmus.progress import Progress, Silent, Titled
from isthmus.repair.batchnorm import policy_named
from isthmus.scores import scores
from isthmus.surfaces import Surface, scan_plane
from isthmus.symmetry import Alignment, Symmetry, discover
from isthmus.weights import Weights


@dataclass(frozen=True)
class PairSettings:
    """What is done with a pair of networks.

    Attributes:
        points: positions of a profile's even grid.
        examples: examples of each split that profiles use (None: all). Ends and merges always use all.
        align: whether to align B to A.
        curve: "bezier", "chain", "neb" (an elastic band), "string" (dynamic string sampling), or "none".
        bends: inner controls of the curve, 1 by default; pivots that a band begins with.
        curve_steps: gradient steps of a fit (of each bead of a string), instead of `curve_epochs`; if
            neither is given, 1,000 of a curve, and the connector's own default of a band or a string.
        curve_epochs: passes over the training data of a fit.
        curve_rate: peak rate; 0.3 of the recipe's by default.
        sampling: where a curve's fit draws positions: even in "uniform" t, or in "arc" length.
        curve_restarts: starts of a curve's fit, the first straight, the others bent; the lowest is kept.
        spread: how far the further starts bend, as a share of the distance between the ends.
        level: of a string, the training loss that the path may not exceed; the connector's by default.
        plane: nodes along the longer side of the planes; 0 draws none.
        plane_examples: held-out examples a node, and as many training examples for its batch norm.
        method: of the matching, a name from `isthmus.match.methods`.
        restarts: of weight matching.
        tolerance: the error barrier below which the ends count as connected.
        batchnorm: policy along paths.
        recalibration: training examples that batch-norm statistics are measured on.
        seed: of everything random here.
        device: where to compute.
    """

    points: int = 25
    examples: int | None = 2000
    align: bool = True
    curve: str = "bezier"
    bends: int | None = None
    curve_steps: int | None = None
    curve_epochs: float | None = None
    curve_rate: float | None = None
    sampling: str = "uniform"
    curve_restarts: int = 1
    spread: float = 0.1
    level: float | None = None
    plane: int = 21
    plane_examples: int = 300
    method: str = "weight"
    restarts: int = 3
    tolerance: float = 0.02
    batchnorm: str = "recalibrate"
    recalibration: int = 2048
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.curve not in (*KINDS, "none"):
            raise SettingError(f"expected the curve {', '.join(KINDS)} or none, got {self.curve!r}")
        if self.method not in METHODS:
            raise SettingError(f"expected a method of matching ({', '.join(METHODS)}), got {self.method!r}")
        policy_named(self.batchnorm)
        least = {
            "points": 3, "bends": 1, "curve_steps": 1, "restarts": 1, "plane_examples": 1, "recalibration": 1,
            "examples": 1,
        }  # fmt: skip
        for name, fewest in least.items():
            value = getattr(self, name)
            if value is not None and value < fewest:
                raise SettingError(f"{_spoken(name)} must be at least {fewest}, got {value}")
        for name in ("curve_epochs", "curve_rate", "level"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise SettingError(f"{_spoken(name)} must be a number above 0, got {value}")
        if self.plane and self.plane < 3:
            raise SettingError(f"a plane needs at least 3 nodes a side (or 0 for none), got {self.plane}")
        if self.curve != "none":
            self.connector()
        if not 0 < self.tolerance < 1:
            raise SettingError(f"the tolerance is a share of examples between 0 and 1, got {self.tolerance}")

    def connector(self) -> AbstractConnector:
        """What finds the curve."""
        return connector_named(
            self.curve, self.bends, epochs=self.curve_epochs, steps=self.curve_steps, rate=self.curve_rate,
            level=self.level, sampling=self.sampling, restarts=self.curve_restarts, spread=self.spread,
            seed=self.seed,
        )  # fmt: skip


def _spoken(name: str) -> str:
    """A setting's name in words."""
    return name.replace("_", " ")


def study_pair(
    task: Task,
    a: Checkpoint,
    b: Checkpoint,
    settings: PairSettings | None = None,
    *,
    run: Run | None = None,
    command: str = "",
    progress: Progress | None = None,
    fanout: Fanout | None = None,
    symmetry: Symmetry | None = None,
) -> PairStudy:
    """Measure the line, align, measure again, fit curves, scan planes, and merge.

    Args:
        task: model, data and loss.
        a: the network that stays, in the task's layout.
        b: the network that is aligned to it, likewise.
        settings: what is done.
        run: keeps every result and resumes; nothing is kept without it.
        command: told in the provenance.
        progress: shows bars.
        fanout: spreads points.
        symmetry: of the task's model, if it is known already; found when it is needed otherwise.

    Returns:
        The record that reports are made from. In the run's folder: `aligned.safetensors` (B, aligned),
        `merged.safetensors` (the midpoint), `curve/` and `aligned-curve/` (the controls), `records/`.
    """
    settings, progress, fanout = settings or PairSettings(), progress or Silent(), fanout or Serial()
    if run is not None:
        return _Story(task, a, b, settings, run, progress, fanout, symmetry).told(command)
    with TemporaryDirectory(prefix="isthmus-") as folder:
        passing = Run.open(Path(folder), "connect", {})
        return _Story(task, a, b, settings, passing, progress, fanout, symmetry).told(command)


def pair_identity(task: Task, a: Checkpoint, b: Checkpoint, settings: PairSettings) -> dict[str, object]:
    """All that determines the results of `study_pair`: what a run of it is named by."""
    return {
        "task": task.name,
        **{name: digest_of(part) for name, part in task.identity.items()},
        "A": a.sha256,
        "B": b.sha256,
        "isthmus": version("isthmus"),
        "torch": torch.__version__,
        **asdict(settings),
    }


@dataclass
class _Story:
    """The parts of a story; each result is asked of the run first, and computed if it is not there."""

    task: Task
    a: Checkpoint
    b: Checkpoint
    settings: PairSettings
    run: Run
    progress: Progress
    fanout: Fanout
    known: Symmetry | None

    def told(self, command: str) -> PairStudy:
        """All parts, in order."""
        settings = self.settings
        ends = (self._end("A", self.a), self._end("B", self.b))
        lines = [self._study("naive line", Segment(self.a.weights, self.b.weights), aligned=False)]
        matching = self.run.record("matching", Matching, self._matching) if settings.align else None
        if matching:
            line = Segment(self.a.weights, self.aligned)
            lines.append(self._study("aligned line", line, aligned=True))
        merges = tuple(self._merges())
        fits = self._curves()
        curves = {name: found for name, found in fits.items() if not isinstance(found, str)}
        failures = tuple(found for found in fits.values() if isinstance(found, str))
        surfaces = tuple(self._planes(curves))
        paths = (*lines, *(study for _, study in curves.values()))
        note = " ".join((self.task.note, *failures)).strip()
        return self.run.record(
            "study",
            PairStudy,
            lambda: PairStudy(
                self.task.name, note, ends, paths, matching, merges, surfaces, settings.tolerance,
                self._provenance(command),
            ),
        )  # fmt: skip

    @cached_property
    def landscape(self) -> Landscape:
        """For profiles: the policy in force, so many examples."""
        s = self.settings
        return Landscape(self.task, s.device, s.batchnorm, s.recalibration, limit=s.examples)

    @cached_property
    def as_saved(self) -> Landscape:
        """For ends and merges: their own batch-norm statistics, all examples."""
        return Landscape(self.task, self.settings.device, "keep")

    @cached_property
    def symmetry(self) -> Symmetry:
        """The symmetry of the task's model."""
        return self.known or discover(self.task.traceable, self.task.example)

    @cached_property
    def alignment(self) -> Alignment:
        """B to A."""
        s, shown = self.settings, Titled(self.progress, "matching")
        question = Question(
            self.a.weights, self.b.weights, self.symmetry, self.landscape, s.restarts, s.seed, shown,
            self.fanout,
        )  # fmt: skip
        return match_by(s.method, question)

    @cached_property
    def aligned(self) -> Weights:
        """B, aligned."""
        network = self.task.network
        return self.run.weights("aligned", lambda: self.alignment.apply(self.b.weights), network)

    def _end(self, name: str, given: Checkpoint) -> End:
        return self.run.record(
            f"end-{name.lower()}", End, lambda: end_record(name, given, self.as_saved, self.progress)
        )

    def _matching(self) -> Matching:
        return matching_record(
            self.a.weights, self.b.weights, self.symmetry, self.alignment, self.settings.method
        )

    def _study(self, name: str, path: AbstractPath, aligned: bool, fit: Fit | None = None) -> PathStudy:
        def measured() -> PathStudy:
            s = self.settings
            return study_path(
                name, path, self.landscape, aligned, s.points, fit, s.seed, self.fanout,
                Titled(self.progress, name),
            )  # fmt: skip

        return self.run.record(_slug(name), PathStudy, measured)

    def _merges(self) -> Iterator[Merge]:
        """The midpoint of each line; the best-founded one is written as a checkpoint."""
        yield self._merge("naive midpoint", lambda: self.b.weights, keep=not self.settings.align)
        if self.settings.align:
            yield self._merge("aligned midpoint", lambda: self.aligned, keep=True)

    def _merge(self, name: str, far: Callable[[], Weights], keep: bool) -> Merge:
        def midpoint() -> Weights:
            return self.landscape.settled(Segment(self.a.weights, far()).at(torch.tensor([0.5])))

        kept = self.run.weights("merged", midpoint, self.task.network) if keep else None

        def measured() -> Merge:
            file = "merged.safetensors" if keep else ""
            model = kept or midpoint()
            return Merge(name, file, scores(model, self.as_saved, Titled(self.progress, name)))

        return self.run.record(_slug(name), Merge, measured)

    def _curves(self) -> dict[str, tuple[AbstractPath, PathStudy] | str]:
        """The curve, and the curve after alignment, each with its study or what went wrong."""
        if self.settings.curve == "none":
            return {}
        name = KINDS[self.settings.curve]
        found = {name: self._curve(name, self.b.weights, aligned=False)}
        if self.settings.align:
            found[f"aligned {name}"] = self._curve(f"aligned {name}", self.aligned, aligned=True)
        return found

    def _curve(self, name: str, far: Weights, aligned: bool) -> tuple[AbstractPath, PathStudy] | str:
        """A fitted curve with its study; a sentence if the fit diverged."""
        s, folder = self.settings, self.run.path(_slug(name))
        store = self.run.store(_slug(name))

        def fitted() -> Fit:
            connector = s.connector()
            ends = (self.a.weights, far)
            shown = Titled(self.progress, name)
            found = connector.connect(ends, self.landscape, store=store, progress=shown)
            if found.outcome is not Outcome.DIVERGED:
                save_controls(found.path, folder)
            return Fit(found.history, found.outcome.value, found.steps, found.settings, found.saddle)

        fit = self.run.record(f"{_slug(name)}-fit", Fit, fitted)
        store.clear()
        if fit.outcome == Outcome.DIVERGED.value:
            return f"The fit of the {name} stopped after {fit.steps} steps: {fit.outcome}."
        path = load_controls(folder)
        path = PATH_KINDS[path.kind]((self.a.weights, *path.controls[1:-1], far))
        return path, self._study(name, path, aligned, fit)

    def _planes(self, curves: Mapping[str, tuple[AbstractPath, PathStudy]]) -> Iterator[Surface]:
        """The plane through both ends and the curve's bend, before and after alignment."""
        s = self.settings
        if not s.plane:
            return
        landscape = Landscape(
            self.task, s.device, s.batchnorm, recalibration=s.plane_examples, limit=s.plane_examples
        )
        for name, (path, study) in curves.items():
            far = "π(B)" if study.aligned else "B"
            if not spans_plane(*path.ends, path.controls[len(path.controls) // 2]):
                continue

            def scanned(path: AbstractPath = path, far: str = far, name: str = name) -> Surface:
                bend = path.controls[len(path.controls) // 2]
                return scan_plane(
                    Plane(*path.ends, bend),
                    landscape,
                    names=("A", far, "bend"),
                    curve=path,
                    curve_name=name,
                    resolution=s.plane,
                    fanout=self.fanout,
                    progress=Titled(self.progress, f"plane of the {name}"),
                )

            yield self.run.record(f"{_slug(name)}-plane", Surface, scanned)

    def _provenance(self, command: str) -> dict[str, str]:
        identity = pair_identity(self.task, self.a, self.b, self.settings)
        return provenance_of(identity, command, apart=("A", "B"))


def _slug(name: str) -> str:
    return name.replace(" ", "-")
