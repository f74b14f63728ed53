"""Fitting a curve between two networks by gradient descent on its inner control points.

Source: Garipov et al. 2018, arXiv 1802.10026, section 3 and appendix A; the schedule is that of the authors'
code. Each step draws one position t ~ U(0, 1) and one minibatch, and descends

    L_batch(θ(t)) + ½ λ ‖θ(t)‖²,     θ(t) = Σ_k c_k(t) w_k.

The gradient of control k is c_k(t) times the gradient at θ(t), so there is no autograd through the path:
one step costs a plain training step, one blend of the controls and one rank-one update.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from isthmus.connect.abstract import Connection, Outcome
from isthmus.errors import SettingError
from isthmus.fanout import Alone, World
from isthmus.io.state import NoStore, Store
from isthmus.landscape import AbstractLandscape, Recipe
from isthmus.path import AbstractPath
from isthmus.progress import Progress, Silent
from isthmus.seeds import seeded
from isthmus.weights import Weights

_CURVE_SHARE = 0.3
"""Published rates of curves over those of the ends: 0.015 / 0.05 (VGG16) and 0.03 / 0.1 (PreResNet)."""


@dataclass(frozen=True)
class CurveSettings:
    """How a curve is fitted.

    Attributes:
        epochs: passes over the training data.
        batch: examples a step.
        rate: the peak learning rate: constant for the first half, linear to 1 % at nine tenths, then constant.
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
        path: a `Bezier` or `Chain` with at least one inner control; `Bezier.between(a, b)` is the usual start.
        landscape: gives batches and gradients.
        epochs: passes over the training data; by default as many as the task's recipe.
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
    settings = CurveSettings.from_recipe(
        landscape.recipe, epochs=epochs, batch=batch, rate=rate, momentum=momentum, decay=decay, seed=seed
    )
    run = _Fit(path, landscape, settings, world or Alone())
    with _own_randomness():
        outcome = run.descend(store or NoStore(), progress or Silent())
    return Connection(
        run.fitted(),
        outcome,
        torch.tensor(run.history, dtype=torch.float64),
        run.step,
        _plain(settings, path),
    )


@dataclass
class _Fit:
    """The state of one fit."""

    path: AbstractPath
    landscape: AbstractLandscape
    settings: CurveSettings
    world: World
    step: int = 0
    total: float = 0.0
    history: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.per_epoch = self.landscape.steps_per_epoch(self.settings.batch)
        self.steps = max(1, math.ceil(self.settings.epochs * self.per_epoch))
        home = self.landscape.device
        self.controls = torch.stack([control.vector.to(home) for control in self.path.controls])
        self.velocity = torch.zeros_like(self.controls[1:-1])
        t = torch.rand(self.steps, generator=seeded(self.settings.seed, "positions"), dtype=torch.float64)
        self.coefficients = self.path.coefficients(t).to(self.controls.dtype).to(self.controls.device)

    @property
    def identity(self) -> str:
        """A digest of the settings and the ends: a saved state of another fit is refused."""
        ends = [control.digest() for control in self.path.controls]
        text = json.dumps([_plain(self.settings, self.path), ends, self.steps], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def descend(self, store: Store, progress: Progress) -> Outcome:
        """Take all remaining steps."""
        identity = self.identity
        self._resume(store.load(identity))
        vector, gradient = torch.empty_like(self.controls[0]), torch.empty_like(self.controls[0])
        batches = self.landscape.stream(self.settings.seed, self.settings.batch, self.step)
        with (
            self.landscape.descent(vector, gradient) as slope,
            progress.bar(f"curve ({self.path.kind})", self.steps, self.step) as bar,
        ):
            while self.step < self.steps:
                row = self.coefficients[self.step]
                torch.mv(self.controls.T, row, out=vector)
                torch.mul(vector, self.settings.decay, out=gradient)
                loss = slope(share_of(next(batches), self.world))
                self.world.mean(gradient)
                self._update(row[1:-1], gradient)
                if not self._note(loss):
                    return Outcome.DIVERGED
                bar(self.step, f"loss {loss:.4f}")
                if store.due():
                    store.save(identity, *self._state())
        return Outcome.COMPLETED

    def _update(self, row: Tensor, gradient: Tensor) -> None:
        """v ← μ v + c ⊗ g, w ← w − η v, for all inner controls at once."""
        self.velocity.addr_(row, gradient, beta=self.settings.momentum)
        rate = self.settings.rate_at(self.step, self.steps)
        self.controls[1:-1].add_(self.velocity, alpha=-rate)

    def _note(self, loss: float) -> bool:
        """Count the step and its loss; False if the loss is no number."""
        self.step += 1
        self.total += loss
        if self.step % self.per_epoch == 0 or self.step == self.steps:
            taken = (self.step - 1) % self.per_epoch + 1
            self.history.append(self.total / taken)
            self.total = 0.0
        return math.isfinite(loss)

    def _state(self) -> tuple[dict[str, Tensor], dict[str, object]]:
        tensors = {"inner": self.controls[1:-1].clone(), "velocity": self.velocity}
        return tensors, {
            "step": self.step,
            "total": self.total.hex(),
            "history": [x.hex() for x in self.history],
        }

    def _resume(self, saved: tuple[dict[str, Tensor], dict[str, object]] | None) -> None:
        if saved is None:
            return
        tensors, fields = saved
        self.controls[1:-1] = tensors["inner"].to(self.controls.device)
        self.velocity = tensors["velocity"].to(self.controls.device)
        self.step = int(str(fields["step"]))
        self.total = float.fromhex(str(fields["total"]))
        history = fields["history"]
        assert isinstance(history, list)
        self.history = [float.fromhex(x) for x in history]

    def fitted(self) -> AbstractPath:
        """The path with the trained inner controls."""
        first, last = self.path.ends
        home = first.vector.device
        inner = [Weights(first.layout, row.to(home, copy=True)) for row in self.controls[1:-1]]
        return type(self.path)((first, *inner, last))


def share_of(batch: object, world: World) -> object:
    """This rank's share of a batch: every `size`-th example, from `rank` on."""
    if world.size == 1:
        return batch
    if isinstance(batch, dict):
        return {name: tensor[world.rank :: world.size] for name, tensor in batch.items()}
    assert isinstance(batch, tuple)
    return tuple(tensor[world.rank :: world.size] for tensor in batch)


@contextmanager
def _own_randomness() -> Iterator[None]:
    """Keep the global generators as they are for whoever called."""
    with torch.random.fork_rng():
        yield


def _plain(settings: CurveSettings, path: AbstractPath) -> dict[str, str | int | float]:
    return {"kind": path.kind, "controls": len(path.controls)} | asdict(settings)
