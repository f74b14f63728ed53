"""Regions of low loss around trained networks, grown and measured; resumable part by part."""

from __future__ import annotations

import math
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from isthmus.connect.abstract import Connection, Outcome
from isthmus.connect.simplex import fit_complex, fit_simplex, fit_simplexes
from isthmus.ensembles import Ensemble, ensemble
from isthmus.experiments.measuring import end_record, provenance_of, study_path
from isthmus.experiments.records import End, Fit, PathStudy
from isthmus.experiments.simplexrecords import (
    Grown,
    Inside,
    RegionKind,
    SimplexStudy,
    Stage,
    estimated_dimension,
)
from isthmus.experiments.simplexsettings import CONNECTORS, VERTICES, RegionSettings, region_identity
from isthmus.fanout import Fanout, Serial
from isthmus.io.checkpoints import Checkpoint, load_weights, save_weights
from isthmus.io.runs import Run
from isthmus.landscape import Evaluation, Landscape, Task
from isthmus.landscape.abstract import SPLITS
from isthmus.path import AbstractPath, Chain, Plane, Segment, spans_plane
from isthmus.path.simplex import Simplex, SimplicialComplex
from isthmus.progress import Progress, Silent, Titled
from isthmus.scores import score
from isthmus.surfaces import Surface, scan_plane
from isthmus.weights import Weights

_MARGIN = 0.8
"""Of the plane through a simplex, so that the walls around it are seen."""
_Z = 1.959964
"""Of the normal distribution, for intervals of 95 %."""


def study_region(
    task: Task,
    networks: Sequence[Checkpoint],
    settings: RegionSettings | None = None,
    *,
    run: Run | None = None,
    command: str = "",
    progress: Progress | None = None,
    fanout: Fanout | None = None,
) -> SimplexStudy:
    """Grow a simplex around a network, or a complex between several, and measure what lies inside.

    Args:
        task: model, data and loss.
        networks: the given networks, in the task's layout; they are called A, B, C and so on.
        settings: what is done.
        run: keeps every result and resumes; nothing is kept without it.
        command: told in the provenance.
        progress: shows bars.
        fanout: spreads points and simplexes.

    Returns:
        The record that the report is made from. In the run's folder: `vertices/NUMBER.safetensors`, each a
        model of its own (batch-norm statistics measured), the given networks first as they are.
    """
    settings, progress, fanout = settings or RegionSettings(), progress or Silent(), fanout or Serial()
    settings.kind(len(networks))
    if run is not None:
        return _Region(task, tuple(networks), settings, run, progress, fanout).measured(command)
    with TemporaryDirectory(prefix="isthmus-") as folder:
        passing = Run.open(Path(folder), "simplex", {})
        region = _Region(task, tuple(networks), settings, passing, progress, fanout)
        return region.measured(command)


@dataclass
class _Region:
    """The parts of the study; each result is asked of the run first, and computed if it is not there."""

    task: Task
    networks: tuple[Checkpoint, ...]
    settings: RegionSettings
    run: Run
    progress: Progress
    fanout: Fanout

    @cached_property
    def landscape(self) -> Landscape:
        """For everything inside: the policy in force, so many examples."""
        s = self.settings
        return Landscape(self.task, s.device, s.batchnorm, s.recalibration, limit=s.examples)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """What the networks are called: letters while they last, numbers beyond."""
        letters = string.ascii_uppercase
        return tuple(
            letters[number] if number < len(letters) else f"network {number + 1}"
            for number in range(len(self.networks))
        )

    @cached_property
    def given(self) -> tuple[Weights, ...]:
        """The networks' weights."""
        return tuple(network.weights for network in self.networks)

    def measured(self, command: str) -> SimplexStudy:
        """All parts, in order."""
        s, kind = self.settings, self.settings.kind(len(self.networks))
        ends = tuple(self._end(number) for number in range(len(self.networks)))
        grown = self._grown(kind)
        note = self.task.note
        stages: tuple[Stage, ...] = ()
        if grown.fit.outcome == Outcome.COMPLETED.value:
            region = self._region(grown)
            dimensions = range(1, len(grown.simplexes[0]))
            stages = tuple(self._stage(region, dimension) for dimension in dimensions)
            paths, surfaces = tuple(self._paths(region, kind)), tuple(self._planes(region, kind))
            ensembles = self._ensembles(region)
        else:
            paths, surfaces, ensembles = (), (), {}
            told = f"The growth stopped after {grown.fit.steps} steps: {grown.fit.outcome}."
            note = f"{note} {told}".strip()
        return self.run.record(
            "study",
            SimplexStudy,
            lambda: SimplexStudy(
                self.task.name, note, kind, ends, grown.simplexes, stages,
                estimated_dimension(stages, s.tolerance), grown.length, grown.saddle, grown.fit, paths,
                surfaces, ensembles, s.tolerance, self._provenance(command),
            ),
        )  # fmt: skip

    def _end(self, number: int) -> End:
        network, name = self.networks[number], self.names[number]

        as_saved = Landscape(self.task, self.settings.device, "keep")
        return self.run.record(
            f"network-{number + 1}", End, lambda: end_record(name, network, as_saved, self.progress)
        )

    def _grown(self, kind: RegionKind) -> Grown:
        store = self.run.store("growth")

        def fitted() -> Grown:
            found = self._connect(kind)
            region = found.path
            assert isinstance(region, (Simplex, SimplicialComplex))
            if found.outcome is Outcome.COMPLETED:
                corners = region.at(torch.eye(len(region.controls), dtype=torch.float64))
                for number, vertex in enumerate(region.controls):
                    whole = vertex if vertex.buffers else self.landscape.settled(corners, number)
                    save_weights(whole, self._vertex(number), {"kind": kind})
            saddle = found.saddle.loss if found.saddle else math.nan
            fit = Fit(found.history, found.outcome.value, found.steps, found.settings)
            return Grown(region.simplexes, region.length, saddle, fit)

        grown = self.run.record("growth", Grown, fitted)
        store.clear()
        return grown

    def _connect(self, kind: RegionKind) -> Connection:
        s, store = self.settings, self.run.store("growth")
        if kind == "complex":
            return fit_complex(
                self.given, self.landscape, connectors=s.connectors or CONNECTORS, weight=s.weight,
                samples=s.samples, epochs=s.epochs, steps=s.steps, rate=s.rate, seed=s.seed, store=store,
                progress=self.progress,
            )  # fmt: skip
        if kind == "simplexes":
            return fit_simplexes(
                self.given, self.landscape, vertices=s.vertices or VERTICES, weight=s.weight,
                samples=s.samples, epochs=s.epochs, steps=s.steps, rate=s.rate, seed=s.seed, store=store,
                progress=self.progress, fanout=self.fanout,
            )  # fmt: skip
        return fit_simplex(
            self.given, self.landscape, vertices=s.vertices or VERTICES, weight=s.weight, samples=s.samples,
            epochs=s.epochs, steps=s.steps, rate=s.rate, seed=s.seed, store=store, progress=self.progress,
        )  # fmt: skip

    def _vertex(self, number: int) -> Path:
        return self.run.path(f"vertices/{number}.safetensors")

    def _region(self, grown: Grown) -> SimplicialComplex:
        """The region from its files; the given networks are themselves."""
        count = max(max(simplex) for simplex in grown.simplexes) + 1
        vertices = [load_weights(self._vertex(k), like=self.task.network) for k in range(count)]
        at = {simplex[0]: self.given[number] for number, simplex in enumerate(grown.simplexes)}
        return SimplicialComplex(
            tuple(at.get(k, vertex) for k, vertex in enumerate(vertices)), grown.simplexes
        )

    def _stage(self, whole: SimplicialComplex, dimension: int) -> Stage:
        def found() -> Stage:
            shown = Titled(self.progress, f"inside, {dimension} dimension{'s' * (dimension > 1)}")
            region = first_dimensions(whole, dimension)
            faces = [region.face(number) for number in range(len(region.simplexes))]
            drawn = region.sample(self.settings.inside, self.settings.seed)
            inside = []
            for split in SPLITS:
                given = self.landscape.evaluate(self.given, split, self.fanout, shown)
                within = self.landscape.evaluate(drawn, split, self.fanout, shown)
                inside.append(compared(within, given))
            return Stage(
                dimension, region.log_volume, sum(face.normalised_volume for face in faces) / len(faces),
                min(float(face.heights[-1]) for face in faces), float(region.edge_lengths.mean()),
                tuple(inside),
            )  # fmt: skip

        return self.run.record(f"inside-{dimension}", Stage, found)

    def _paths(self, region: SimplicialComplex, kind: RegionKind) -> Iterator[PathStudy]:
        """The straight line from the first network to each other, and the route through the complex."""
        if kind != "complex":
            return
        several = len(self.given) > 2
        for other in range(1, len(self.given)):
            told = f" {self.names[0]} to {self.names[other]}" if several else ""
            yield self._path(f"line{told}", Segment(self.given[0], self.given[other]), other)
            yield self._path(f"route{told}", region.route(0, other), other)

    def _path(self, name: str, path: AbstractPath, other: int) -> PathStudy:
        def profiled() -> PathStudy:
            s = self.settings
            return study_path(
                name, path, self.landscape, False, s.points, None, s.seed, self.fanout,
                Titled(self.progress, name),
            )  # fmt: skip

        return self.run.record(f"{name.split(maxsplit=1)[0]}-{other + 1}", PathStudy, profiled)

    def _planes(self, region: SimplicialComplex, kind: RegionKind) -> Iterator[Surface]:
        """The plane through a network and two new vertices; of a complex, two networks and a connector."""
        s, (first, *more) = self.settings, region.simplexes[0]
        if not s.plane:
            return
        corners = (0, 1, more[0]) if kind == "complex" else (first, *more[:2])
        if len(corners) < 3 or not spans_plane(*(region.controls[k] for k in corners)):
            return
        a, b, c = (region.controls[k] for k in corners)
        names = (
            (self.names[0], self.names[1], "connector 1")
            if kind == "complex"
            else (self.names[0], "vertex 1", "vertex 2")
        )
        outline = Chain((a, c, b)) if kind == "complex" else Chain((a, b, c, a))

        def scanned() -> Surface:
            few = Landscape(
                self.task, s.device, s.batchnorm, recalibration=s.plane_examples, limit=s.plane_examples
            )
            return scan_plane(
                Plane(a, b, c), few, names=names, curve=outline,
                curve_name="route" if kind == "complex" else "face of the simplex", resolution=s.plane,
                margin=0.2 if kind == "complex" else _MARGIN,
                fanout=self.fanout, progress=Titled(self.progress, "plane"),
            )  # fmt: skip

        yield self.run.record("plane", Surface, scanned)

    def _ensembles(self, region: SimplicialComplex) -> dict[str, Ensemble]:
        """Predictions averaged over points inside, and over the given networks; of class scores only."""
        s = self.settings
        if not s.members or self.task.loss is not None:
            return {}
        inside = self.run.record(
            "ensemble-inside",
            Ensemble,
            lambda: ensemble(
                region.sample(s.members, s.seed + 1), self.landscape, seed=s.seed, fanout=self.fanout,
                progress=Titled(self.progress, "ensemble"),
            ),
        )  # fmt: skip
        if len(self.given) == 1:
            return {"points inside": inside}
        given = self.run.record(
            "ensemble-given",
            Ensemble,
            lambda: ensemble(
                self.given, self.landscape, names=self.names, seed=s.seed, fanout=self.fanout,
                progress=Titled(self.progress, "ensemble of the given"),
            ),
        )  # fmt: skip
        return {"points inside": inside, "given networks": given}

    def _provenance(self, command: str) -> dict[str, str]:
        identity = region_identity(self.task, self.networks, self.settings)
        return provenance_of(identity, command, apart=("networks",))


def first_dimensions(region: SimplicialComplex, dimension: int) -> SimplicialComplex:
    """The region when each simplex had so many dimensions: its vertices are in the order of their coming."""
    members = [simplex[: dimension + 1] for simplex in region.simplexes]
    used = sorted({number for member in members for number in member})
    place = {number: index for index, number in enumerate(used)}
    return SimplicialComplex(
        tuple(region.controls[number] for number in used),
        tuple(tuple(place[number] for number in member) for member in members),
    )


def compared(within: Evaluation, given: Evaluation) -> Inside:
    """Points inside against the given networks on the same examples.

    The difference is taken example by example; its interval is the normal one of a mean, and has no width
    where no example tells the two apart.
    """
    average = Evaluation(
        within.loss.double().mean(0, keepdim=True), within.error.double().mean(0, keepdim=True),
        within.split, within.batchnorm,
    )  # fmt: skip
    apart = (average.error - given.error.double().mean(0, keepdim=True))[0]
    gap = float(apart.mean())
    margin = _Z * float(apart.std()) / math.sqrt(len(apart)) if len(apart) > 1 else math.inf
    found = score(average)
    found = replace(found, error_low=max(0.0, found.error_low), error_high=min(1.0, found.error_high))
    return Inside(found, within.mean_loss, within.mean_error, gap, gap - margin, gap + margin)
