"""Fitting a curve between two networks by gradient descent on its inner control points.

Source: Garipov et al. 2018, arXiv 1802.10026, section 3 and appendix A; the schedule is that of the authors'
code. Each step draws one position t ~ U(0, 1) and one minibatch, and descends

    L_batch(θ(t)) + ½ λ ‖θ(t)‖²,     θ(t) = Σ_k c_k(t) w_k.

The gradient of control k is c_k(t) times the gradient at θ(t), so there is no autograd through the path:
one step costs a plain training step, one blend of the controls and one rank-one update.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from isthmus.connect.abstract import PATH_KINDS, AbstractConnector, Connection, Outcome
from isthmus.errors import SettingError
from isthmus.fanout import Alone, World
from isthmus.identity import digest_of
from isthmus.io.state import Store
from isthmus.landscape import AbstractLandscape, Recipe
from isthmus.path import AbstractPath
from isthmus.progress import Progress
from isthmus.seeds import seeded
from isthmus.stepping import common_loss, share_of, take_steps
from isthmus.weights import Weights

_CURVE_SHARE = 0.3
"""Published rates of curves over those of the ends: 0.015 / 0.05 (VGG16) and 0.03 / 0.1 (PreResNet)."""


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
        seed: of the positions, the order of the data, augmentation and dropout.
    """

    epochs: float
    batch: int
    rate: float
    momentum: float = 0.9
    decay: float = 5e-4
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "rate"):
            if not getattr(self, name) > 0:
                raise SettingError(f"the curve's {name} must be above 0, got {getattr(self, name)}")
        if not 0 <= self.momentum < 1 or self.decay < 0:
            raise SettingError(
                f"expected 0 <= momentum < 1 and decay >= 0, got {self.momentum} and {self.decay}"
            )

    @classmethod
    def from_recipe(cls, recipe: Recipe, **changes: float | int | None) -> CurveSettings:
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
    store: Store | None = None,
    progress: Progress | None = None,
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
        store: where the state is kept for resuming; nowhere by default.
        progress: shows the loss and the time left; silent by default.
        world: data-parallel ranks; each takes its share of every batch.

    Returns:
        A `Connection` with the fitted path (inner controls carry no buffers) and how it ended.

    Raises:
        SettingError: the path has no inner control, or a setting is out of range.

    Limits: batch norm uses batch statistics while fitting; evaluate with "recalibrate". Memory: two vectors
    an inner control, one an end, and two more.
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
        landscape.recipe, epochs=epochs, batch=batch, rate=rate, momentum=momentum, decay=decay, seed=seed
    )
    fit = _Fit(path, landscape, settings, world or Alone())
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

    def __post_init__(self) -> None:
        if self.kind not in PATH_KINDS or self.bends < 1:
            raise SettingError(
                f"expected the kind {' or '.join(PATH_KINDS)} and at least 1 bend, got {self.kind!r} and "
                f"{self.bends}"
            )

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
            momentum=self.momentum, decay=self.decay, seed=self.seed, store=store, progress=progress,
        )  # fmt: skip


class _Fit:
    """One fit as a procedure of gradient steps."""

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
        t = torch.rand(self.steps, generator=seeded(settings.seed, "positions"), dtype=torch.float64)
        self.coefficients = path.coefficients(t).to(self.controls)

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
                row = self.coefficients[step]
                torch.mv(self.controls.T, row, out=vector)
                torch.mul(vector, self.settings.decay, out=gradient)
                loss = slope(share_of(next(batches), self.world))
                self._update(step, row[1:-1], self.world.mean(gradient))
                return common_loss(loss, self.world)

            yield take

    def _update(self, step: int, row: Tensor, gradient: Tensor) -> None:
        """SGD with momentum on every inner control: v_k ← μ v_k + c_k g, w_k ← w_k − η v_k."""
        self.velocity.addr_(row, gradient, beta=self.settings.momentum)
        self.controls[1:-1].add_(self.velocity, alpha=-self.settings.rate_at(step, self.steps))

    def tensors(self) -> dict[str, Tensor]:
        """Inner controls and their velocities."""
        return {"inner": self.controls[1:-1], "velocity": self.velocity}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put them back."""
        self.controls[1:-1] = tensors["inner"].to(self.controls)
        self.velocity.copy_(tensors["velocity"])

    def fitted(self) -> AbstractPath:
        """The path with the trained inner controls."""
        first, last = self.path.ends
        home = first.vector.device
        inner = [Weights(first.layout, row.to(home, copy=True)) for row in self.controls[1:-1]]
        return type(self.path)((first, *inner, last))


def _plain(settings: CurveSettings, path: AbstractPath) -> dict[str, str | int | float]:
    plain: dict[str, str | int | float] = {"kind": path.kind, "controls": len(path.controls)}
    return plain | asdict(settings)
