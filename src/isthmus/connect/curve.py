"""Fitting a curve between two networks by gradient descent on its inner control points.

Source: Garipov et al. 2018, arXiv 1802.10026, section 3 and appendix A; the schedule is that of the authors'
code. Each step draws one position t ~ U(0, 1) and one minibatch, and descends

    L_batch(θ(t)) + ½ λ ‖θ(t)‖²,     θ(t) = Σ_k c_k(t) w_k.

The gradient of control k is c_k(t) times the gradient at θ(t), so there is no autograd through the path:
one step costs a plain training step, one blend of the controls and one rank-one update.

With sampling="arc" t is drawn so that θ(t) is uniform in arc length (`_Fit` says what that descends); several
restarts begin at bends to both sides of the start (`bent`) and keep the lowest curve.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from isthmus.connect.abstract import PATH_KINDS, AbstractConnector, Connection, Outcome, find_saddle
from isthmus.errors import SettingError
from isthmus.fanout import Alone, Fanout, Serial, World
from isthmus.identity import digest_of
from isthmus.io.state import NoStore, Store
from isthmus.landscape import AbstractLandscape, Landscape, Recipe
from isthmus.path import AbstractPath
from isthmus.path.arc import positions_at_shares
from isthmus.path.bend import bent
from isthmus.progress import Progress, Silent, Titled
from isthmus.seeds import seeded
from isthmus.stepping import common_loss, share_of, take_steps
from isthmus.weights import Weights

SAMPLINGS = ("uniform", "arc")
"""How positions are drawn: uniform in t, or in arc length."""

_CURVE_SHARE = 0.3
"""Published rates of curves over those of the ends: 0.015 / 0.05 (VGG16) and 0.03 / 0.1 (PreResNet)."""

_REFRESH = 50
"""Steps between two measurements of the curve's length under sampling="arc"."""

_LENGTH_POINTS = 257
"""Positions of the polyline that the length is measured along."""

_JUDGED = (11, 2000)
"""Positions and training examples (at most) by which restarts are compared."""


@dataclass(frozen=True)
class CurveSettings:
    """How a curve is fitted.

    Attributes:
        epochs: passes over the training data.
        batch: examples a step.
        rate: the peak learning rate: constant for the first half, linear to 1 % at nine tenths, then
            constant.
        momentum: of SGD.
        decay: λ, on the sampled point θ(t), not on the controls.
        seed: of the positions, the order of the data, augmentation, dropout and bends.
        sampling: "uniform" in t, or in arc length ("arc").
        restarts: how many starts are fitted; the lowest curve is kept.
        spread: how far a bent start lies from the given one, as a share of the distance between the ends.
    """

    epochs: float
    batch: int
    rate: float
    momentum: float = 0.9
    decay: float = 5e-4
    seed: int = 0
    sampling: str = "uniform"
    restarts: int = 1
    spread: float = 0.1

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "rate"):
            if not getattr(self, name) > 0:
                raise SettingError(f"the curve's {name} must be above 0, got {getattr(self, name)}")
        if not 0 <= self.momentum < 1 or self.decay < 0:
            raise SettingError(
                f"expected 0 <= momentum < 1 and decay >= 0, got {self.momentum} and {self.decay}"
            )
        if self.sampling not in SAMPLINGS:
            raise SettingError(f"expected sampling='uniform' or 'arc', got {self.sampling!r}")
        if self.restarts < 1 or not 0 < self.spread < math.inf:
            raise SettingError(
                f"expected at least 1 restart and a spread above 0, got {self.restarts} and {self.spread}"
            )

    @classmethod
    def from_recipe(cls, recipe: Recipe, **changes: float | int | str | None) -> CurveSettings:
        """Settings that suit models trained by this recipe; every change that is not None is taken over.

        Epochs, batch and decay are the recipe's; the rate is 0.3 of it, as published (0.03 where the
        recipe does not train by SGD, because rates of other optimisers do not carry over).
        """
        by_sgd = recipe.optimizer == "sgd"
        base = cls(
            epochs=recipe.epochs,
            batch=recipe.batch,
            rate=_CURVE_SHARE * recipe.rate if by_sgd else 0.03,
            momentum=recipe.momentum,
            decay=recipe.weight_decay if by_sgd else 5e-4,
        )
        return cls(**(asdict(base) | {name: value for name, value in changes.items() if value is not None}))

    def rate_at(self, step: int, steps: int) -> float:
        """The learning rate of a step: 1 until one half, then linear to 0.01 at nine tenths, times `rate`."""
        done = step / steps
        share = 1.0 if done <= 0.5 else 1.0 - (done - 0.5) / 0.4 * 0.99 if done <= 0.9 else 0.01
        return self.rate * share


def fit_curve(
    path: AbstractPath,
    landscape: AbstractLandscape,
    *,
    epochs: float | None = None,
    steps: int | None = None,
    batch: int | None = None,
    rate: float | None = None,
    momentum: float | None = None,
    decay: float | None = None,
    seed: int = 0,
    sampling: str = "uniform",
    restarts: int = 1,
    spread: float = 0.1,
    store: Store | None = None,
    progress: Progress | None = None,
    fanout: Fanout | None = None,
    world: World | None = None,
) -> Connection:
    """Train the inner controls of a path so that the loss is low all along it; the ends stay.

    Args:
        path: a `Bezier` or `Chain` with at least one inner control; usually `Bezier.between(a, b)`.
        landscape: gives batches and gradients.
        epochs: passes over the training data; by default as many as the task's recipe.
        steps: gradient steps, instead of epochs.
        batch: examples a step; the recipe's by default.
        rate: the peak rate; 0.3 of the recipe's SGD rate by default.
        momentum: of SGD; the recipe's by default.
        decay: λ on the sampled point; the recipe's by default.
        seed: of everything random here. The same seed gives the same curve, however often interrupted.
        sampling: "uniform" in t, as published, or "arc": uniform in the arc length of the present curve, so
            that long pieces are trained as much as their length. The length is measured every 50 steps.
        restarts: how many starts are fitted, all with the same batches: first the given one, then pairs bent
            to one side of it and to the other (`bent`). The one whose highest mean loss on 2,000 training
            examples (11 positions) is lowest is kept.
        spread: of the bends, as a share of the distance between the ends.
        store: where the state is kept for resuming; nowhere by default.
        progress: shows the loss and the time left; silent by default.
        fanout: spreads the restarts.
        world: data-parallel ranks; each takes its share of every batch.

    Returns:
        A `Connection` with the fitted path (inner controls carry no buffers) and how it ended. Of several
        restarts: history and steps are those of the kept one, `settings["start"]` is its number, and `saddle`
        is what it was chosen by.

    Raises:
        SettingError: the path has no inner control, or a setting is out of range.

    Limits: batch norm uses batch statistics while fitting; evaluate with "recalibrate". Memory: two vectors
    an inner control, one an end, and two more; under "arc" one more a control, while the length is measured;
    of several restarts the controls of all, until the lowest is chosen.
    """
    if len(path.controls) < 3:
        raise SettingError(
            f"a {path.kind} of {len(path.controls)} controls has no inner control to train; "
            "start from Bezier.between(a, b) or Chain.between(a, b)"
        )
    if steps is not None:
        if epochs is not None or steps < 1:
            raise SettingError(f"give epochs, or a number of steps of at least 1; got {epochs} and {steps}")
        epochs = steps / landscape.steps_per_epoch(batch or landscape.recipe.batch)
    settings = CurveSettings.from_recipe(
        landscape.recipe, epochs=epochs, batch=batch, rate=rate, momentum=momentum, decay=decay, seed=seed,
        sampling=sampling, restarts=restarts, spread=spread,
    )  # fmt: skip
    world, store, progress = world or Alone(), store or NoStore(), progress or Silent()
    if settings.restarts == 1:
        return _fitted(path, landscape, settings, store, progress, world)

    def started(number: int) -> Connection:
        start = bent(path, settings.spread, settings.seed, number, landscape.frozen)
        shown = Titled(progress, f"start {number + 1} of {settings.restarts}")
        found = _fitted(start, landscape, settings, store.part(f"start-{number}"), shown, world)
        saddle = find_saddle(found.path, _judging(landscape), _JUDGED[0])
        return replace(found, saddle=saddle, settings=found.settings | {"start": number})

    return min((fanout or Serial()).map(started, range(settings.restarts)), key=_rank)


def _judging(landscape: AbstractLandscape) -> AbstractLandscape:
    """The landscape by which restarts are compared: few examples are enough."""
    if not isinstance(landscape, Landscape):
        return landscape
    limit = min(landscape.limit or _JUDGED[1], _JUDGED[1])
    return replace(landscape, batchnorm="recalibrate", limit=limit)


def _rank(found: Connection) -> tuple[bool, float]:
    """Completed fits come first, the lowest highest point before the others."""
    assert found.saddle is not None
    return found.outcome is not Outcome.COMPLETED, found.saddle.loss


def _fitted(
    path: AbstractPath,
    landscape: AbstractLandscape,
    settings: CurveSettings,
    store: Store,
    progress: Progress,
    world: World,
) -> Connection:
    """One fit from one start."""
    fit = _Fit(path, landscape, settings, world)
    course = take_steps(fit, fit.identity, store, progress)
    outcome = Outcome.COMPLETED if course.finite else Outcome.DIVERGED
    return Connection(fit.fitted(), outcome, course.history, course.taken, _plain(settings, path))


@dataclass(frozen=True)
class CurveConnector(AbstractConnector):
    """`fit_curve` from the straight start, with its settings held.

    Attributes:
        kind: "bezier" or "chain".
        bends: inner controls.
        epochs: see `fit_curve`, as for all that follow.
        steps: likewise.
        batch: likewise.
        rate: likewise.
        momentum: likewise.
        decay: likewise.
        seed: likewise.
        sampling: likewise.
        restarts: likewise.
        spread: likewise.
    """

    kind: str = "bezier"
    bends: int = 1
    epochs: float | None = None
    steps: int | None = None
    batch: int | None = None
    rate: float | None = None
    momentum: float | None = None
    decay: float | None = None
    seed: int = 0
    sampling: str = "uniform"
    restarts: int = 1
    spread: float = 0.1

    def __post_init__(self) -> None:
        if self.kind not in PATH_KINDS or self.bends < 1:
            raise SettingError(
                f"expected the kind {' or '.join(PATH_KINDS)} and at least 1 bend, got {self.kind!r} and "
                f"{self.bends}"
            )
        CurveSettings(1, 1, 1, sampling=self.sampling, restarts=self.restarts, spread=self.spread)

    def connect(
        self,
        points: Sequence[Weights],
        landscape: AbstractLandscape,
        *,
        store: Store | None = None,
        progress: Progress | None = None,
    ) -> Connection:
        """Fit a curve between two points, or one whose inner controls start at the points in between."""
        start: AbstractPath
        if len(points) == 2:
            start = PATH_KINDS[self.kind].between(points[0], points[1], self.bends)
        else:
            start = PATH_KINDS[self.kind](tuple(points))
        return fit_curve(
            start, landscape, epochs=self.epochs, steps=self.steps, batch=self.batch, rate=self.rate,
            momentum=self.momentum, decay=self.decay, seed=self.seed, sampling=self.sampling,
            restarts=self.restarts, spread=self.spread, store=store, progress=progress,
        )  # fmt: skip


class _Fit:
    """One fit as a procedure of gradient steps.

    Uniform in t, a step's gradient is an unbiased one of ∫ L(θ(t)) dt. Under "arc" t has the density
    q(t) ∝ ‖θ'(t)‖ of the curve as it was when its length was last measured, and the gradient is an unbiased
    one of ∫ L(θ(t)) q(t) dt with that q held: the mean over arc length, but for how q itself moves with the
    controls, which is left out (Garipov et al. 2018, section 3.2: that part cannot be sampled cheaply). So
    the curve gains nothing by being drawn out where the loss is low.
    """

    def __init__(
        self, path: AbstractPath, landscape: AbstractLandscape, settings: CurveSettings, world: World
    ) -> None:
        self.path, self.landscape, self.settings, self.world = path, landscape, settings, world
        self.name = f"fitting a {path.kind}"
        self.per_epoch = landscape.steps_per_epoch(settings.batch)
        self.steps = max(1, round(settings.epochs * self.per_epoch))
        home = landscape.device
        self.controls = torch.stack([control.vector.to(home) for control in path.controls])
        self.velocity = torch.zeros_like(self.controls[1:-1])
        self.t = torch.rand(self.steps, generator=seeded(settings.seed, "positions"), dtype=torch.float64)
        self.arc = settings.sampling == "arc"
        self.rows = self.controls.new_empty(0)
        if not self.arc:
            self.rows = path.coefficients(self.t).to(self.controls)

    @property
    def identity(self) -> str:
        """A digest of the settings, the controls that it starts from, and the landscape."""
        controls = [control.digest() for control in self.path.controls]
        return digest_of(_plain(self.settings, self.path), controls, self.landscape.identity)

    @contextmanager
    def begin(self, start: int) -> Iterator[Callable[[int], float]]:
        """Step k: the point at t_k, its gradient with the decay, and the update of all inner controls."""
        vector, gradient = torch.empty_like(self.controls[0]), torch.empty_like(self.controls[0])
        batches = self.landscape.stream(self.settings.seed, self.settings.batch, start)
        with self.landscape.descent(vector, gradient) as slope:

            def take(step: int) -> float:
                if self.arc and step % _REFRESH == 0:
                    self._measure(step)
                row = self.rows[step % _REFRESH if self.arc else step]
                torch.mv(self.controls.T, row, out=vector)
                torch.mul(vector, self.settings.decay, out=gradient)
                loss = slope(share_of(next(batches), self.world))
                self._update(step, row[1:-1], self.world.mean(gradient))
                return common_loss(loss, self.world)

            yield take

    def _measure(self, step: int) -> None:
        """Draw the positions of the steps until the length is measured again."""
        apart = self.controls[1:] - self.controls[0]
        gram = torch.zeros(2 * [len(self.controls)], dtype=torch.float64)
        gram[1:, 1:] = (apart @ apart.T).double().cpu()
        grid = torch.linspace(0, 1, _LENGTH_POINTS, dtype=torch.float64)
        moves = self.path.coefficients(grid).diff(dim=0)
        pieces = torch.einsum("nj,jk,nk->n", moves, gram, moves).clamp_min(0).sqrt()
        along = torch.cat([pieces.new_zeros(1), pieces.cumsum(0)])
        t = positions_at_shares(grid, along, self.t[step : step + _REFRESH])
        self.rows = self.path.coefficients(t).to(self.controls)

    def _update(self, step: int, row: Tensor, gradient: Tensor) -> None:
        """SGD with momentum on every inner control: v_k ← μ v_k + c_k g, w_k ← w_k − η v_k."""
        self.velocity.addr_(row, gradient, beta=self.settings.momentum)
        self.controls[1:-1].add_(self.velocity, alpha=-self.settings.rate_at(step, self.steps))

    def tensors(self) -> dict[str, Tensor]:
        """Inner controls and their velocities; the coming positions, where they depend on the curve."""
        state = {"inner": self.controls[1:-1], "velocity": self.velocity}
        return state | {"rows": self.rows} if self.arc else state

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put them back."""
        self.controls[1:-1] = tensors["inner"].to(self.controls)
        self.velocity.copy_(tensors["velocity"])
        self.rows = tensors["rows"].to(self.controls) if "rows" in tensors else self.rows

    def fitted(self) -> AbstractPath:
        """The path with the trained inner controls."""
        first, last = self.path.ends
        home = first.vector.device
        inner = [Weights(first.layout, row.to(home, copy=True)) for row in self.controls[1:-1]]
        return type(self.path)((first, *inner, last))


def _plain(settings: CurveSettings, path: AbstractPath) -> dict[str, str | int | float]:
    plain: dict[str, str | int | float] = {"kind": path.kind, "controls": len(path.controls)}
    return plain | asdict(settings)
