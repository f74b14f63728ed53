"""Simplexes of low loss: around one network, joining several, or around each of several.

Source: Benton, Maddox, Lotfi and Wilson 2021, arXiv 2102.13042: SPRO (section 3), mode-connecting complexes
(section 4), ESPRO (section 5). Three faults of the authors' code are not repeated: it returns V² for V, it
discards the division by the number of samples (their data term is the sum), and of a complex it counts the
first simplex alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from isthmus.connect.abstract import AbstractConnector, Connection, Outcome, Saddle
from isthmus.connect.growing import Growth, SimplexSettings
from isthmus.errors import SettingError
from isthmus.fanout import Alone, Fanout, Serial, World
from isthmus.io.state import NoStore, Store
from isthmus.landscape import AbstractLandscape
from isthmus.path.simplex import AbstractRegion, SimplicialComplex
from isthmus.progress import Progress, Titled
from isthmus.seeds import child_seed, seeded
from isthmus.stepping import take_steps
from isthmus.weights import Weights

_CONNECTOR_EPOCHS = 1.0
"""Passes for a connector over those of the recipe."""


@dataclass(frozen=True)
class InsideSaddle(Saddle):
    """The highest of some points drawn inside a region.

    Attributes:
        coordinates: its barycentric coordinates, one a vertex; `t` is not a number, as a region has no single
            coordinate.
    """

    coordinates: tuple[float, ...] = ()


def fit_simplex(
    points: Weights | Sequence[Weights],
    landscape: AbstractLandscape,
    *,
    vertices: int = 4,
    weight: float | None = None,
    samples: int | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    batch: int | None = None,
    rate: float | None = None,
    momentum: float | None = None,
    decay: float | None = None,
    inside: int = 20,
    seed: int = 0,
    store: Store | None = None,
    progress: Progress | None = None,
    world: World | None = None,
) -> Connection:
    """Grow one simplex of low loss, vertex by vertex, from a trained network (SPRO).

    Args:
        points: the network, alone or in a sequence; or several that lie in one region of low loss already
            (fine-tunings of one model, say), which become vertices as they are. Networks trained apart are
            joined by `fit_complex`.
        landscape: gives batches and gradients.
        vertices: of the finished simplex, the given ones among them.
        weight: λ, in units of the loss: what e times the volume is worth; 0.01 by default. The published
            code divides a λ of 10⁻⁶ by the log-volume of a random simplex, which depends on the unit of
            length and may be negative, and so cannot be a default for any network.
        samples: S, points inside at each step; 5 by default, as published.
        epochs: passes over the training data for each new vertex; 0.2 of the recipe's by default.
        steps: gradient steps for each new vertex, instead of epochs.
        batch: examples a step; the recipe's by default.
        rate: what each vertex begins with; the recipe's SGD rate by default.
        momentum: of SGD; the recipe's by default.
        decay: γ, on the vertex that is trained; the recipe's by default.
        inside: points drawn inside at the end, apart from those of the fit, whose highest mean loss on the
            training data is the saddle; 0 measures none.
        seed: of everything random here. The same seed gives the same simplex, however often interrupted.
        store: where the state is kept for resuming; nowhere by default.
        progress: shows the loss and the time left; silent by default.
        world: data-parallel ranks; each takes its share of every batch.

    Returns:
        A `Connection` whose path is a `Simplex`, the given points first, to the last bit (new ones carry no
        buffers). The simplex of its first j vertices is what a growth to j vertices gives.

    Raises:
        SettingError: a setting out of range, too few vertices, or given points that are flat.

    Limits: the volume grows most cheaply along directions that matter least (inputs that are constant,
        rescalings of units), bounded by the decay alone there. A high point may be missed: a random point
        inside is near the middle when there are many vertices.
    Cost: S gradients a step, and two products with the vertices. Memory: a vector a vertex, and four more;
        while a new vertex is planted, up to six more a vertex (three in float64).
    Source: Benton et al. 2021, section 3.
    """
    given = (points,) if isinstance(points, Weights) else tuple(points)
    if not given:
        raise SettingError("there are no points to grow a simplex from; give at least one")
    if vertices < max(2, len(given) + 1):
        raise SettingError(
            f"the simplex must have at least {max(2, len(given) + 1)} vertices, one more than is given, got "
            f"{vertices}"
        )
    _require_apart(given)
    settings = _settings(
        landscape, epochs, steps, batch=batch, rate=rate, weight=weight, samples=samples, momentum=momentum,
        decay=decay, seed=seed,
    )  # fmt: skip
    groups = (tuple(range(len(given))),)
    growth = Growth(given, groups, vertices - len(given), landscape, settings, world or Alone())
    return _grow(growth, inside, store, progress)


def fit_complex(
    modes: Sequence[Weights],
    landscape: AbstractLandscape,
    *,
    connectors: int = 2,
    weight: float | None = None,
    samples: int | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    batch: int | None = None,
    rate: float | None = None,
    momentum: float | None = None,
    decay: float | None = None,
    inside: int = 20,
    seed: int = 0,
    store: Store | None = None,
    progress: Progress | None = None,
    world: World | None = None,
) -> Connection:
    """Join networks trained apart by a complex: each has a simplex, and all simplexes share the connectors.

    The first connector is fitted without the volume, as published: with it each simplex is a segment.

    Args:
        modes: two networks or more.
        landscape: gives batches and gradients.
        connectors: the vertices that are trained; with one, a polygonal chain of one bend joins any two.
        weight: see `fit_simplex`, as for all that follow.
        samples: likewise; the points of a step go round the simplexes.
        epochs: likewise, for each connector; the recipe's by default, as it has farther to go.
        steps: likewise.
        batch: likewise.
        rate: likewise.
        momentum: likewise.
        decay: likewise.
        inside: likewise.
        seed: likewise.
        store: likewise.
        progress: likewise.
        world: likewise.

    Returns:
        A `Connection` whose path is a `SimplicialComplex`, the modes first, to the last bit; its `route` is a
        path from one mode to another.

    Raises:
        SettingError: a setting out of range, fewer than two modes, or two modes that are the same.

    Source: Benton et al. 2021, section 4.
    """
    given = tuple(modes)
    if len(given) < 2:
        raise SettingError(f"a complex joins at least 2 networks, got {len(given)}; for one use fit_simplex")
    if connectors < 1:
        raise SettingError(f"a complex needs at least 1 connector, got {connectors}")
    _require_apart(given)
    if epochs is None and steps is None:
        epochs = _CONNECTOR_EPOCHS * landscape.recipe.epochs
    settings = _settings(
        landscape, epochs, steps, batch=batch, rate=rate, weight=weight, samples=samples, momentum=momentum,
        decay=decay, seed=seed,
    )  # fmt: skip
    groups = tuple((number,) for number in range(len(given)))
    growth = Growth(given, groups, connectors, landscape, settings, world or Alone())
    return _grow(growth, inside, store, progress)


@dataclass(frozen=True)
class SimplexConnector(AbstractConnector):
    """`fit_complex` between the points, with its settings held.

    Attributes:
        connectors: see `fit_complex`, as for all that follow.
        weight: likewise.
        samples: likewise.
        epochs: likewise.
        steps: likewise.
        batch: likewise.
        rate: likewise.
        momentum: likewise.
        decay: likewise.
        inside: likewise.
        seed: likewise.
    """

    connectors: int = 2
    weight: float | None = None
    samples: int | None = None
    epochs: float | None = None
    steps: int | None = None
    batch: int | None = None
    rate: float | None = None
    momentum: float | None = None
    decay: float | None = None
    inside: int = 20
    seed: int = 0

    def connect(
        self,
        points: Sequence[Weights],
        landscape: AbstractLandscape,
        *,
        store: Store | None = None,
        progress: Progress | None = None,
    ) -> Connection:
        """Join all points by one complex; a path between two of them is its `route`."""
        return fit_complex(points, landscape, **asdict(self), store=store, progress=progress)


def fit_simplexes(
    modes: Sequence[Weights],
    landscape: AbstractLandscape,
    *,
    vertices: int = 4,
    weight: float | None = None,
    samples: int | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    batch: int | None = None,
    rate: float | None = None,
    momentum: float | None = None,
    decay: float | None = None,
    inside: int = 20,
    seed: int = 0,
    store: Store | None = None,
    progress: Progress | None = None,
    fanout: Fanout | None = None,
) -> Connection:
    """Grow a simplex around each of several networks: what an ESPRO ensemble draws its points from.

    Args:
        modes: the networks; the simplexes share no vertex.
        landscape: gives batches and gradients.
        vertices: of each simplex; see `fit_simplex`, as for all that follow.
        weight: likewise.
        samples: likewise.
        epochs: likewise.
        steps: likewise.
        batch: likewise.
        rate: likewise.
        momentum: likewise.
        decay: likewise.
        inside: likewise, of each.
        seed: likewise; each simplex has a seed of its own.
        store: likewise.
        progress: likewise.
        fanout: spreads the networks.

    Returns:
        A `Connection` whose path is the union of the simplexes as a `SimplicialComplex`. Its history is the
        mean of theirs, its saddle the highest of theirs, its outcome the first that is not complete.

    Source: Benton et al. 2021, section 5.
    """
    given = tuple(modes)
    if not given:
        raise SettingError("there are no networks to grow simplexes around; give at least one")
    _require_apart(given)
    kept = store or NoStore()

    def grown(number: int) -> Connection:
        shown = None if progress is None else Titled(progress, f"network {number + 1} of {len(given)}")
        return fit_simplex(
            given[number], landscape, vertices=vertices, weight=weight, samples=samples, epochs=epochs,
            steps=steps, batch=batch, rate=rate, momentum=momentum, decay=decay, inside=inside,
            seed=child_seed(seed, "simplex", number), store=kept.part(str(number)), progress=shown,
        )  # fmt: skip

    return _joined((fanout or Serial()).map(grown, range(len(given))), seed)


def find_saddle_inside(
    region: AbstractRegion,
    landscape: AbstractLandscape,
    points: int = 20,
    split: str = "train",
    seed: int = 0,
    progress: Progress | None = None,
) -> InsideSaddle:
    """The highest of some points drawn inside a region, by their mean loss.

    Args:
        region: a simplex or a complex.
        landscape: where to evaluate.
        points: how many to draw.
        split: "train" (what a region is fitted to) or "test".
        seed: gives the points; they are others than those of `sample` and of the fit.
        progress: shows how many are done.

    Limits: a maximum over a sample: the true one is higher.
    Cost: one pass over the split a point.
    """
    if points < 1:
        raise SettingError(f"expected at least 1 point to draw, got {points}")
    where = region.draw(points, seeded(seed, "saddle"))
    found = landscape.evaluate(region.at(where), split, None, progress)
    loss = found.mean_loss.nan_to_num(nan=math.inf, posinf=math.inf)
    top = int(loss.argmax())
    return InsideSaddle(
        float(loss[top]), float(found.mean_error[top]), math.nan, split, found.examples, points,
        tuple(where[top].tolist()),
    )  # fmt: skip


def _grow(growth: Growth, inside: int, store: Store | None, progress: Progress | None) -> Connection:
    """Take all steps; of a fit that diverged, the vertices that were finished before are kept."""
    if inside < 0:
        raise SettingError(f"the number of points to draw inside must be 0 (none) or more, got {inside}")
    course = take_steps(growth, growth.identity, store, progress)
    settings = growth.settings
    plain: dict[str, str | int | float] = {
        "kind": "simplex" if len(growth.groups) == 1 else "complex",
        "vertices": len(growth.given) + growth.new,
        **asdict(settings),
    }
    if not course.finite:
        whole = max(1, (course.taken - 1) // growth.each)
        region = growth.grown(whole)
        return Connection(region, Outcome.DIVERGED, course.history, course.taken, plain)
    region = growth.grown(growth.new)
    saddle = (
        find_saddle_inside(region, growth.landscape, inside, seed=settings.seed, progress=progress)
        if inside
        else None
    )
    return Connection(region, Outcome.COMPLETED, course.history, course.taken, plain, saddle)


def _joined(found: Sequence[Connection], seed: int) -> Connection:
    """Simplexes that share nothing as one connection."""
    vertices: list[Weights] = []
    members: list[tuple[int, ...]] = []
    for each in found:
        members.append(tuple(range(len(vertices), len(vertices) + len(each.path.controls))))
        vertices += each.path.controls
    region = SimplicialComplex(tuple(vertices), tuple(members))
    outcome = next((c.outcome for c in found if c.outcome is not Outcome.COMPLETED), Outcome.COMPLETED)
    epochs = min(len(each.history) for each in found)
    history = torch.stack([each.history[:epochs] for each in found]).mean(dim=0)
    settings = found[0].settings | {"kind": "simplexes", "networks": len(found), "seed": seed}
    return Connection(
        region, outcome, history, sum(each.steps for each in found), settings, _highest(found, members)
    )


def _highest(found: Sequence[Connection], members: Sequence[tuple[int, ...]]) -> InsideSaddle | None:
    """The highest saddle of several simplexes, its coordinates among all vertices."""
    saddles = [
        (c.saddle, m) for c, m in zip(found, members, strict=True) if isinstance(c.saddle, InsideSaddle)
    ]
    if len(saddles) < len(found):
        return None
    top, member = max(saddles, key=lambda pair: pair[0].loss)
    coordinates = [0.0] * (members[-1][-1] + 1)
    for number, value in zip(member, top.coordinates, strict=True):
        coordinates[number] = value
    points = sum(saddle.points for saddle, _ in saddles)
    return InsideSaddle(top.loss, top.error, math.nan, top.split, top.examples, points, tuple(coordinates))


def _settings(
    landscape: AbstractLandscape, epochs: float | None, steps: int | None, **changes: float | int | None
) -> SimplexSettings:
    """The settings, with steps of a vertex told as epochs."""
    if steps is not None:
        if epochs is not None or steps < 1:
            raise SettingError(f"give epochs, or a number of steps of at least 1; got {epochs} and {steps}")
        batch = int(changes["batch"] or landscape.recipe.batch)
        epochs = steps / landscape.steps_per_epoch(batch)
    return SimplexSettings.from_recipe(landscape.recipe, epochs=epochs, **changes)


def _require_apart(points: Sequence[Weights]) -> None:
    """Refuse two points that are the same: a simplex over them has no volume."""
    for number, point in enumerate(points):
        for other, before in enumerate(points[:number]):
            if not point.distance(before):
                raise SettingError(
                    f"the points {other + 1} and {number + 1} are the same weights: a simplex over them has "
                    "no volume; give each network once"
                )
