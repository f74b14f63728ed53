"""Curves before and after alignment, over several pairs of networks.

For every pair A, B: the straight line and a fitted curve from A to B, and from A to π(B), where the alignment
π puts B's hidden units in the order of A's. π(B) computes what B computes, so that whatever differs between
the two curves is due to the order of the units alone.

Source: Tatro, Chen, Das, Melnyk, Sattigeri, Lai 2020, "Optimizing Mode Connectivity via Neuron Alignment",
arXiv 2009.02439, sections 3 and 5 (curve, matching by correlation, loss and accuracy along the curve).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from isthmus.connect import Outcome
from isthmus.connect.abstract import PATH_KINDS, load_controls, save_controls
from isthmus.connect.curve import fit_curve
from isthmus.errors import SettingError
from isthmus.experiments.alignedrecords import (
    CurveComparison,
    CurvePair,
    Measured,
    Treated,
    contrasts_of,
    measure_path,
)
from isthmus.experiments.measuring import end_record, matching_record, provenance_of
from isthmus.experiments.records import End, Fit, Matching
from isthmus.experiments.watching import Watch, Watcher, look_steps
from isthmus.fanout import Fanout, Serial
from isthmus.identity import digest_of
from isthmus.io.checkpoints import Checkpoint
from isthmus.io.runs import Run
from isthmus.landscape import Landscape, Task
from isthmus.match.methods import METHODS, Question, match_by
from isthmus.path import AbstractPath, Segment
from isthmus.progress import Progress, Silent, Titled
from isthmus.repair.batchnorm import policy_named
from isthmus.symmetry import Alignment, Symmetry, discover
from isthmus.weights import Weights

PAIRINGS = ("all", "disjoint")
"""Every two networks; or the first and second, third and fourth, and so on, which share none."""


@dataclass(frozen=True)
class AlignedCurveSettings:
    """What is done with every pair.

    Attributes:
        method: of the matching, a name from `isthmus.match.methods`; the paper's is "activation".
        restarts: of weight matching.
        pairs: "all", or "disjoint": consecutive pairs that share no network.
        curve: "bezier" or "chain".
        bends: inner controls of a curve.
        curve_steps: gradient steps of a fit, unless `curve_epochs` is given.
        curve_epochs: passes over the training data of a fit.
        curve_rate: peak rate; 0.3 of the recipe's by default.
        points: positions of a profile's even grid.
        examples: examples of each split that profiles use (None: all). Ends always use all.
        level: steps are counted until the curve's highest training loss is at most this many times that of
            the pair's higher end.
        looks: how often a fit is looked at, in equal ratios of steps.
        watch_points: positions on the curve at a look.
        watch_examples: training examples at a look, and as many for batch norm.
        batchnorm: policy along paths.
        recalibration: training examples that batch-norm statistics are measured on.
        seed: of everything random here. Both curves of a pair draw the same positions and batches.
        device: where to compute.
    """

    method: str = "activation"
    restarts: int = 3
    pairs: str = "all"
    curve: str = "bezier"
    bends: int = 1
    curve_steps: int = 1000
    curve_epochs: float | None = None
    curve_rate: float | None = None
    points: int = 25
    examples: int | None = 2000
    level: float = 20.0
    looks: int = 40
    watch_points: int = 13
    watch_examples: int = 500
    batchnorm: str = "recalibrate"
    recalibration: int = 2048
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name, known in (("curve", PATH_KINDS), ("method", METHODS), ("pairs", PAIRINGS)):
            if getattr(self, name) not in known:
                raise SettingError(
                    f"expected for {name} one of {', '.join(known)}, got {getattr(self, name)!r}"
                )
        policy_named(self.batchnorm)
        least = {
            "points": 3, "bends": 1, "curve_steps": 1, "restarts": 1, "recalibration": 1, "examples": 2,
            "looks": 2, "watch_points": 3, "watch_examples": 1,
        }  # fmt: skip
        for name, fewest in least.items():
            value = getattr(self, name)
            if value is not None and value < fewest:
                raise SettingError(f"{name.replace('_', ' ')} must be at least {fewest}, got {value}")
        for name in ("curve_epochs", "curve_rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise SettingError(f"{name.replace('_', ' ')} must be a number above 0, got {value}")
        if not 1 < self.level < math.inf:
            raise SettingError(
                f"the level is a multiple of the higher end's loss, which every curve reaches, so it must be "
                f"above 1, got {self.level}"
            )


def compare_curves(
    checkpoints: Sequence[Checkpoint],
    task: Task,
    settings: AlignedCurveSettings | None = None,
    *,
    names: Sequence[str] | None = None,
    run: Run | None = None,
    command: str = "",
    progress: Progress | None = None,
    fanout: Fanout | None = None,
    symmetry: Symmetry | None = None,
) -> CurveComparison:
    """Fit the curve between every two networks before and after alignment, and compare over the pairs.

    Args:
        checkpoints: two networks or more, in the task's layout; of a pair, the later one is aligned.
        task: model, data and loss.
        settings: what is done.
        names: of the networks; by default their files' names.
        run: keeps every result and resumes; nothing is kept without it.
        command: told in the provenance.
        progress: shows bars.
        fanout: spreads the pairs, unaligned and aligned apart.
        symmetry: of the task's model, if it is known already.

    Returns:
        The record that reports are made from. In the run's folder: `aligned/1-2.safetensors` (the second
        network, aligned to the first), `curves/1-2/` and `curves/1-2-aligned/` (the controls), `records/`.

    Raises:
        SettingError: fewer than two networks, one of them twice, or an odd number for disjoint pairs.

    Cost: for each pair two fits, their looks, and four profiles; one matching.

    Limits: pairs that share a network are not independent, and intervals over them are too narrow; disjoint
    pairs are independent.

    Source: Tatro et al. 2020, arXiv 2009.02439.
    """
    settings, progress, fanout = settings or AlignedCurveSettings(), progress or Silent(), fanout or Serial()
    named = tuple(names) if names is not None else names_of(checkpoints)
    pairs = chosen_pairs([each.sha256 for each in checkpoints], named, settings.pairs)
    if run is not None:
        return _Comparing(task, checkpoints, named, settings, run, progress, symmetry).told(
            pairs, fanout, command
        )
    with TemporaryDirectory(prefix="isthmus-") as folder:
        passing = Run.open(Path(folder), "curves", {})
        return _Comparing(task, checkpoints, named, settings, passing, progress, symmetry).told(
            pairs, fanout, command
        )


def curves_identity(
    task: Task, checkpoints: Sequence[Checkpoint], settings: AlignedCurveSettings
) -> dict[str, object]:
    """All that determines the results of `compare_curves`: what a run of it is named by."""
    return {
        "task": task.name,
        **{name: digest_of(part) for name, part in task.identity.items()},
        **{f"network {k}": each.sha256 for k, each in enumerate(checkpoints, start=1)},
        "isthmus": version("isthmus"),
        "torch": torch.__version__,
        **asdict(settings),
    }


def names_of(checkpoints: Sequence[Checkpoint]) -> tuple[str, ...]:
    """What to call some networks: their files' names, with numbers before them where two are alike."""
    stems = [each.path.stem for each in checkpoints]
    if len(set(stems)) == len(stems):
        return tuple(stems)
    return tuple(f"{number}-{stem}" for number, stem in enumerate(stems, start=1))


def chosen_pairs(digests: Sequence[str], names: Sequence[str], pairing: str) -> tuple[tuple[int, int], ...]:
    """Which networks are paired, by their places.

    Example:
        >>> chosen_pairs("abcd", "1234", "disjoint")
        ((0, 1), (2, 3))

    Raises:
        SettingError: fewer than two networks, one of them twice, or an odd number for disjoint pairs.
    """
    if len(digests) < 2 or len(names) != len(digests):
        raise SettingError(
            f"expected two networks or more with a name each, got {len(digests)} with {len(names)} names"
        )
    for one, two in itertools.combinations(range(len(digests)), 2):
        if digests[one] == digests[two]:
            raise SettingError(
                f"{names[one]} and {names[two]} are the same network: there is no path to measure between "
                "them; give each network once"
            )
    if pairing == "all":
        return tuple(itertools.combinations(range(len(digests)), 2))
    if len(digests) % 2:
        raise SettingError(
            f"disjoint pairs take an even number of networks, got {len(digests)}; leave one out, or take all "
            "pairs"
        )
    return tuple((place, place + 1) for place in range(0, len(digests), 2))


@dataclass
class _Comparing:
    """The parts of a comparison; each result is asked of the run first, and computed if it is not there."""

    task: Task
    given: Sequence[Checkpoint]
    names: tuple[str, ...]
    settings: AlignedCurveSettings
    run: Run
    progress: Progress
    known: Symmetry | None

    def told(self, pairs: Sequence[tuple[int, int]], fanout: Fanout, command: str) -> CurveComparison:
        """All parts, in order."""
        ends = tuple(self._end(place) for place in range(len(self.given)))
        matchings = fanout.map(self._matched, pairs)
        pieces = [(pair, aligned) for pair in pairs for aligned in (False, True)]
        treated = fanout.map(self._treated, pieces)
        found = tuple(
            CurvePair(self.names[one], self.names[two], matching, unaligned, aligned)
            for (one, two), matching, unaligned, aligned in zip(
                pairs, matchings, treated[::2], treated[1::2], strict=True
            )
        )
        failures = tuple(
            f"The fit of the {'aligned ' * aligned}curve of {self._title(pair)} stopped after "
            f"{each.fit.steps} steps: {each.fit.outcome}."
            for (pair, aligned), each in zip(pieces, treated, strict=True)
            if each.curve is None
        )
        return CurveComparison(
            self.task.name, self.task.note, self.settings.method, self.settings.level, ends, found,
            contrasts_of(found, self.settings.level), failures, 2 * len(pairs) > len(set(sum(pairs, ()))),
            self._provenance(command),
        )  # fmt: skip

    @cached_property
    def landscape(self) -> Landscape:
        """For fits and profiles: the policy in force, so many examples."""
        s = self.settings
        return Landscape(self.task, s.device, s.batchnorm, s.recalibration, limit=s.examples)

    @cached_property
    def watched(self) -> Landscape:
        """For looks at a fit, with a network of its own: the fit holds the other one's."""
        s = self.settings
        return Landscape(replace(self.task), s.device, s.batchnorm, s.watch_examples, limit=s.watch_examples)

    @cached_property
    def as_saved(self) -> Landscape:
        """For ends: their own batch-norm statistics, all examples."""
        return Landscape(self.task, self.settings.device, "keep")

    @cached_property
    def symmetry(self) -> Symmetry:
        """The symmetry of the task's model."""
        return self.known or discover(self.task.traceable, self.task.example)

    def _title(self, pair: tuple[int, int]) -> str:
        return f"{self.names[pair[0]]} and {self.names[pair[1]]}"

    def _end(self, place: int) -> End:
        given, name = self.given[place], self.names[place]

        return self.run.record(
            f"end-{place + 1}", End, lambda: end_record(name, given, self.as_saved, self.progress)
        )

    def _alignment(self, pair: tuple[int, int]) -> Alignment:
        a, b = (self.given[place].weights for place in pair)
        shown = Titled(self.progress, f"matching {self._title(pair)}")
        s = self.settings
        question = Question(a, b, self.symmetry, self.landscape, s.restarts, s.seed, shown)
        return match_by(s.method, question)

    def _matched(self, pair: tuple[int, int]) -> Matching:
        """How the pair is aligned; the aligned network is written beside."""
        a, b = (self.given[place].weights for place in pair)

        def found() -> Matching:
            alignment = self._alignment(pair)
            self.run.weights(f"aligned/{_slug(pair)}", lambda: alignment.apply(b), self.task.network)
            return matching_record(a, b, self.symmetry, alignment, self.settings.method)

        return self.run.record(f"matching-{_slug(pair)}", Matching, found)

    def _far(self, pair: tuple[int, int], aligned: bool) -> Weights:
        """The second network, as it is or aligned."""
        if not aligned:
            return self.given[pair[1]].weights
        return self.run.weights(f"aligned/{_slug(pair)}", lambda: self._alignment(pair).apply(
            self.given[pair[1]].weights), self.task.network)  # fmt: skip

    def _treated(self, piece: tuple[tuple[int, int], bool]) -> Treated:
        """The line and the curve of a pair, as it is or aligned."""
        pair, aligned = piece
        name = _slug(pair) + "-aligned" * aligned
        ends = (self.given[pair[0]].weights, self._far(pair, aligned))
        shown = Titled(self.progress, f"{self._title(pair)}{', aligned' * aligned}")
        line = self._measured(f"line-{name}", Segment(*ends), shown)
        fit, watch = self._fitted(name, ends, shown)
        if fit.outcome != Outcome.COMPLETED.value:
            return Treated(line, None, fit, watch)
        inner = load_controls(self.run.path(f"curves/{name}"), self.settings.curve).controls[1:-1]
        path = PATH_KINDS[self.settings.curve]((ends[0], *inner, ends[1]))
        return Treated(line, self._measured(f"curve-{name}", path, shown), fit, watch)

    def _measured(self, name: str, path: AbstractPath, shown: Progress) -> Measured:
        s = self.settings
        return self.run.record(
            name, Measured, lambda: measure_path(path, self.landscape, s.points, s.seed, shown)
        )

    def _fitted(self, name: str, ends: tuple[Weights, Weights], shown: Progress) -> tuple[Fit, Watch]:
        """Fit the curve and watch it; both curves of a pair see the same positions and batches."""
        s, store = self.settings, self.run.store(f"curve-{name}")

        def fitted() -> _Watched:
            start = PATH_KINDS[s.curve].between(*ends, s.bends)
            watcher = Watcher(start, self.watched, look_steps(self._steps, s.looks), s.watch_points, store)
            found = fit_curve(
                start, self.landscape, epochs=s.curve_epochs,
                steps=None if s.curve_epochs else s.curve_steps, rate=s.curve_rate, seed=s.seed,
                store=watcher, progress=shown,
            )  # fmt: skip
            if found.outcome is Outcome.COMPLETED:
                save_controls(found.path, self.run.path(f"curves/{name}"))
            fit = Fit(found.history, found.outcome.value, found.steps, found.settings)
            return _Watched(fit, watcher.watch)

        kept = self.run.record(f"fit-{name}", _Watched, fitted)
        store.clear()
        return kept.fit, kept.watch

    @property
    def _steps(self) -> int:
        """Gradient steps of a fit."""
        s = self.settings
        if not s.curve_epochs:
            return s.curve_steps
        per_epoch = self.landscape.steps_per_epoch(self.task.recipe.batch)
        return max(1, round(s.curve_epochs * per_epoch))

    def _provenance(self, command: str) -> dict[str, str]:
        identity = curves_identity(self.task, self.given, self.settings)
        return provenance_of(identity, command, [key for key in identity if key.startswith("network ")])


@dataclass(frozen=True, eq=False)
class _Watched:
    """A fit, with what was seen of it."""

    fit: Fit
    watch: Watch


def _slug(pair: tuple[int, int]) -> str:
    return f"{pair[0] + 1}-{pair[1] + 1}"
