"""Growing a region of low loss vertex by vertex: the procedure that `fit_simplex` and its kin share.

Source: Benton, Maddox, Lotfi and Wilson 2021, arXiv 2102.13042, sections 3 and 4. Each step draws S positions
inside, a ~ Dirichlet(1), and one minibatch, and descends in the newest vertex w_j alone

    (1 / S) Σ_s L_batch(Σ_k a_k^s w_k) − λ log V + ½ γ ‖w_j‖².

Its gradient is (1 / S) Σ_s a_j^s g_s − λ Σ_m C_jm w_m + γ w_j with g_s the gradient at the point: no autograd
through the region, and the volume costs two products with the vertices, however many simplexes there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from isthmus.errors import SettingError
from isthmus.fanout import World
from isthmus.identity import digest_of
from isthmus.landscape import AbstractLandscape, Recipe
from isthmus.path.simplex import (
    Simplex,
    SimplicialComplex,
    at_vertex,
    drawn_inside,
    log_volume,
    region_of,
    volume_gradient,
)
from isthmus.seeds import seeded
from isthmus.stepping import common_loss, share_of
from isthmus.weights import Weights

_EPOCHS_SHARE = 0.2
"""Passes for a vertex over those of the recipe."""
_LEAST_SHARE = 1e-9
"""Smaller shares of a gradient are raised to this: nothing is divided by zero, and nothing else changes."""
_START = 0.01
"""How far from the plane of the old vertices a new one starts, over the norm of the old ones."""


@dataclass(frozen=True)
class SimplexSettings:
    """How a simplex is grown.

    Attributes:
        epochs: passes over the training data for each new vertex.
        batch: examples a step.
        rate: the learning rate that each vertex begins with; a cosine takes it to zero.
        weight: λ of the log-volume, in units of the loss: what e times the volume is worth. 0 for none.
        samples: S, points drawn inside at each step.
        momentum: of SGD.
        decay: γ, on the vertex that is trained.
        seed: of the positions, the starts, the order of the data, augmentation and dropout.
    """

    epochs: float
    batch: int
    rate: float
    weight: float = 1e-2
    samples: int = 5
    momentum: float = 0.9
    decay: float = 5e-4
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise SettingError(f"the simplex's {name} must be above 0, got {getattr(self, name)}")
        if not 0 <= self.weight < math.inf:
            raise SettingError(
                f"the weight of the log-volume must be 0 or more, got {self.weight}: a negative one would "
                "shrink the simplex"
            )
        if self.samples < 1:
            raise SettingError(f"a step needs at least 1 sample inside, got {self.samples}")
        if not 0 <= self.momentum < 1 or not 0 <= self.decay < math.inf:
            raise SettingError(
                f"expected 0 <= momentum < 1 and decay >= 0, got {self.momentum} and {self.decay}"
            )

    @classmethod
    def from_recipe(cls, recipe: Recipe, **changes: float | int | None) -> SimplexSettings:
        """Settings that suit models trained by this recipe; every change that is not None is taken over.

        Batch, rate and decay are the recipe's, and a vertex takes 0.2 of its epochs. (The published rate is
        0.2 of the models', on the sum of S = 5 losses: the same on their mean.) Where the recipe does not
        train by SGD, the rate is 0.03 and the decay 0.0005.
        """
        by_sgd = recipe.optimizer == "sgd"
        base = cls(
            epochs=_EPOCHS_SHARE * recipe.epochs,
            batch=recipe.batch,
            rate=recipe.rate if by_sgd else 0.03,
            momentum=recipe.momentum,
            decay=recipe.weight_decay if by_sgd else 5e-4,
        )
        return cls(**(asdict(base) | {name: value for name, value in changes.items() if value is not None}))

    def rate_at(self, step: int, steps: int) -> float:
        """The rate at one of the steps of a vertex."""
        return self.rate * 0.5 * (1 + math.cos(math.pi * step / steps))


class Growth:
    """The growth of a region, as a procedure of gradient steps.

    Simplex i holds the given points groups[i] and all new vertices. One new vertex after the other is
    trained; it starts at the mean of all old vertices, which stay as they are from then on.

    At the mean of a simplex's vertices the volume is zero, and log V has no slope. The authors' code takes
    log(V² + 10⁻⁴) there, whose slope is zero, and leaves it to the noise of SGD to lift the vertex. Here it
    starts a hundredth of the vertices' norm away from the plane of the first simplex's old vertices, in a
    random direction at right angles to it: log V is exact, without the constant, which would have a unit.
    """

    def __init__(
        self,
        given: tuple[Weights, ...],
        groups: tuple[tuple[int, ...], ...],
        new: int,
        landscape: AbstractLandscape,
        settings: SimplexSettings,
        world: World,
    ) -> None:
        self.given, self.groups, self.new = given, groups, new
        self.landscape, self.settings, self.world = landscape, settings, world
        self.name = "growing a simplex" if len(groups) == 1 else "growing a complex"
        self.per_epoch = landscape.steps_per_epoch(settings.batch)
        self.each = max(1, round(settings.epochs * self.per_epoch))
        self.steps = new * self.each
        home, start = landscape.device, given[0].vector
        self.vertices = torch.zeros(len(given) + new, len(start), dtype=start.dtype, device=home)
        for row, point in zip(self.vertices, given, strict=False):
            row.copy_(point.vector)
        self.velocity = torch.zeros_like(self.vertices[0])
        self.held = landscape.frozen
        self.gram = torch.zeros(0)
        self.draws = torch.zeros(0)
        self.shares = list[float]()
        self.planted = 0

    @property
    def identity(self) -> str:
        """A digest of the settings, the points that it starts from, and the landscape."""
        points = [point.digest() for point in self.given]
        return digest_of(asdict(self.settings), self.groups, self.new, points, self.landscape.identity)

    def simplexes(self, vertices: int) -> tuple[tuple[int, ...], ...]:
        """The simplexes when there are so many vertices."""
        shared = tuple(range(len(self.given), vertices))
        return tuple(group + shared for group in self.groups)

    @contextmanager
    def begin(self, start: int) -> Iterator[Callable[[int], float]]:
        """Step k: S points inside, their gradients on one batch, and the update of the newest vertex.

        The weighted sum Σ a^s g^s is built as ((g¹ a¹/a² + g²) a²/a³ + …) a^S, because `slope` adds to what
        is there: two passes over the vector a sample fewer than clearing it and adding it to a sum.
        """
        vector, gradient = torch.empty_like(self.velocity), torch.empty_like(self.velocity)
        batches = self.landscape.stream(self.settings.seed, self.settings.batch, start)
        s = self.settings
        with self.landscape.descent(vector, gradient) as slope:

            def take(step: int) -> float:
                newest, at = self._ready(step)
                used = self.vertices[: newest + 1]
                torch.mv(used.T, self._pull(newest), out=gradient)
                batch = share_of(next(batches), self.world)
                loss, unit = 0.0, 1.0
                for draw in range(s.samples * at, s.samples * (at + 1)):
                    torch.mv(used.T, self.draws[draw], out=vector)
                    gradient.mul_(unit / self.shares[draw])
                    unit = self.shares[draw]
                    loss += slope(batch) / s.samples
                self._update(newest, self.world.mean(gradient.mul_(unit)), s.rate_at(at, self.each))
                return common_loss(loss, self.world)

            yield take

    def _ready(self, step: int) -> tuple[int, int]:
        """Which vertex a step trains, and which of its steps it is; a new vertex is planted before."""
        stage, at = divmod(step, self.each)
        newest = len(self.given) + stage
        if at == 0:
            self._plant(newest)
        if self.planted != newest:
            self._prepare(newest)
        return newest, at

    def _plant(self, newest: int) -> None:
        """Start a vertex beside the mean of the old ones, at rest."""
        old = self.vertices[:newest]
        generator = seeded(self.settings.seed, "start", newest)
        away = torch.randn(old.shape[1], generator=generator, dtype=torch.float64).to(old.device)
        for part in self.held:
            away[part] = 0
        facet = [*self.groups[0], *range(len(self.given), newest)]
        away = _off_plane(away, old[facet].double())
        size = math.sqrt(math.fsum(float(row.double().square().sum()) for row in old) / newest) or 1.0
        self.vertices[newest] = old.mean(dim=0, dtype=torch.float64) + _START * size * away
        self.velocity.zero_()

    def _prepare(self, newest: int) -> None:
        """What the steps of a vertex share: the Gram matrix of the old ones, and the positions."""
        apart = self.vertices[:newest].double() - self.vertices[0].double()
        self.gram = torch.zeros(newest + 1, newest + 1, dtype=torch.float64)
        self.gram[:-1, :-1] = (apart @ apart.T).cpu()
        generator = seeded(self.settings.seed, "positions", newest)
        draws = drawn_inside(
            self.simplexes(newest + 1), newest + 1, self.each * self.settings.samples, generator
        )
        self.draws = draws.to(self.vertices)
        self.shares = (draws[:, newest] / self.settings.samples).clamp_min(_LEAST_SHARE).tolist()
        self.planted = newest

    def _pull(self, newest: int) -> Tensor:
        """The gradient of −λ log V + ½ γ ‖w‖² in the newest vertex, as coefficients of the vertices."""
        row = torch.zeros(newest + 1, dtype=torch.float64)
        weight = self._weight(newest)
        if weight:
            used = self.vertices[: newest + 1]
            apart = used[newest] - used[0]
            products = torch.mv(used, apart).cpu().double()
            self.gram[newest] = self.gram[:, newest] = products - products[0]
            row = -weight * pull_of(self.gram, self.simplexes(newest + 1), newest)
        row[newest] += self.settings.decay
        return row.to(self.vertices)

    def _weight(self, newest: int) -> float:
        """λ; the first connector of a complex has none, as published: it may lie as near as it can."""
        first = len(self.groups) > 1 and newest == len(self.given)
        return 0.0 if first else self.settings.weight

    def _update(self, newest: int, gradient: Tensor, rate: float) -> None:
        """SGD with momentum: v ← μ v + g, w ← w − η v; what training holds still stays."""
        for part in self.held:
            gradient[part] = 0
        self.velocity.mul_(self.settings.momentum).add_(gradient)
        self.vertices[newest].add_(self.velocity, alpha=-rate)

    def tensors(self) -> dict[str, Tensor]:
        """The new vertices and the velocity of the newest."""
        return {"new": self.vertices[len(self.given) :], "velocity": self.velocity}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put them back."""
        self.vertices[len(self.given) :] = tensors["new"].to(self.vertices)
        self.velocity.copy_(tensors["velocity"])

    def grown(self, new: int) -> Simplex | SimplicialComplex:
        """The region with so many new vertices; the given points are themselves."""
        count = len(self.given) + new
        return region_of(self._weights(count), self.simplexes(count))

    def _weights(self, count: int) -> tuple[Weights, ...]:
        first = self.given[0]
        home = first.vector.device
        rows = self.vertices[len(self.given) : count]
        return (*self.given, *(Weights(first.layout, row.to(home, copy=True)) for row in rows))


def pull_of(gram: Tensor, simplexes: Sequence[tuple[int, ...]], vertex: int) -> Tensor:
    """The gradient of log Σ_i V_i in one vertex, as coefficients of all vertices, shape (vertices,).

    ∇ log Σ V_i = Σ_i (V_i / Σ V) ∇ log V_i: every simplex counts. One that is flat, to the precision of its
    coordinates, has no direction to grow in, and is left out.

    Args:
        gram: of all vertices about a common origin, float64.
        simplexes: that hold the vertex.
        vertex: its number.
    """
    row = torch.zeros(len(gram), dtype=torch.float64)
    tables = [at_vertex(gram, simplex) for simplex in simplexes]
    volumes = torch.tensor([log_volume(table) for table in tables], dtype=torch.float64)
    if bool((volumes == -math.inf).all()):
        return row
    for share, table, simplex in zip(volumes.softmax(0).tolist(), tables, simplexes, strict=True):
        if share:
            row[list(simplex)] += share * volume_gradient(table)[simplex.index(vertex)]
    return row


def _off_plane(vector: Tensor, points: Tensor) -> Tensor:
    """The part of a vector at right angles to all differences of some points, as a unit vector."""
    edges = points[1:] - points[0]
    if len(edges) and bool(edges.any()):
        basis, _ = torch.linalg.qr(edges.T)
        for _ in range(2):  # the second time takes away what the rounding of the first has left
            vector = vector - basis @ (basis.T @ vector)
    norm = float(vector.norm())
    if not norm > 1e-9 * math.sqrt(len(vector)):
        raise SettingError(
            f"a simplex of {len(points) + 1} vertices needs {len(points)} parameters or more that are "
            f"trained: of the {len(vector)} here no direction is left to grow in; ask for fewer vertices"
        )
    return vector / norm
