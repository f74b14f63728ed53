"""The beads of a string: the pieces they stand on, and how each is trained down to below the level.

Beads of one depth are independent of each other: each has a seed, and a piece of the store, named after its
place in the recursion. So they may be trained in any order, or side by side.

Source: Freeman & Bruna 2017, arXiv 1611.01540, algorithm 1, line 8.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from isthmus.barriers import Quantity
from isthmus.connect.abstract import Saddle
from isthmus.connect.curve import CurveSettings
from isthmus.errors import SettingError
from isthmus.identity import digest_of
from isthmus.io.state import Store
from isthmus.landscape import AbstractLandscape, Evaluation
from isthmus.path import Chain
from isthmus.progress import Progress
from isthmus.seeds import child_seed, seeded
from isthmus.stepping import take_steps
from isthmus.weights import Weights


@dataclass(frozen=True)
class StringSettings:
    """How a string is searched for.

    Attributes:
        level: L₀, which the path may not exceed.
        of: what the level is of: the "loss" or the "error" on the training split.
        tolerance: a piece counts as above the level if it exceeds L₀ (1 + tolerance).
        alpha: beads are trained to α L₀.
        depth: how many times a piece may be halved.
        positions: tested inside every piece, evenly; the published code has 19.
        refine: rounds of refinement around each piece's highest position, each of two more.
        jitter: how far a bead's start is moved in a random direction, as a share of its piece's length.
        steps: gradient steps that a bead may take; then it is given up.
        check: gradient steps between two looks at a bead's loss on the whole training split.
        batch: examples a step.
        rate: the peak learning rate: constant for the first half of `steps`, linear to 1 % at nine tenths.
        momentum: of SGD.
        decay: λ, on the bead.
        seed: of the beads' data order, augmentation and dropout.
    """

    level: float
    of: Quantity
    tolerance: float
    alpha: float
    depth: int
    positions: int
    refine: int
    jitter: float
    steps: int
    check: int
    batch: int
    rate: float
    momentum: float
    decay: float
    seed: int

    def __post_init__(self) -> None:
        _require_quantity(self.of)
        if not math.isfinite(self.level):
            raise SettingError(f"the level must be a finite number, got {self.level}")
        if not 0 < self.alpha <= 1 or not 0 <= self.tolerance < math.inf or not 0 <= self.jitter < 1:
            raise SettingError(
                "expected 0 < alpha <= 1, tolerance >= 0 and 0 <= jitter < 1, got "
                f"{self.alpha}, {self.tolerance} and {self.jitter}"
            )
        least = {"depth": 0, "positions": 1, "refine": 0, "steps": 1, "check": 1, "batch": 1}
        for name, fewest in least.items():
            if getattr(self, name) < fewest:
                raise SettingError(
                    f"the string's {name} must be at least {fewest}, got {getattr(self, name)}"
                )
        if not 0 < self.rate < math.inf or not 0 <= self.momentum < 1 or self.decay < 0:
            raise SettingError(
                "expected a rate above 0, 0 <= momentum < 1 and decay >= 0, got "
                f"{self.rate}, {self.momentum} and {self.decay}"
            )

    @property
    def ceiling(self) -> float:
        """L₀ (1 + tolerance): what no tested position may exceed. Below zero the tolerance is of |L₀|."""
        return self.level + self.tolerance * abs(self.level)

    @property
    def target(self) -> float:
        """α L₀: what a bead is trained to. Below zero the margin is of |L₀|."""
        return self.level - (1 - self.alpha) * abs(self.level)


@dataclass(frozen=True, eq=False)
class Piece:
    """A straight piece between two neighbours.

    Attributes:
        address: how it was reached: "" is the whole, then "0" its first half, "01" the second half of that.
        left: one neighbour.
        right: the other.
        s: tested positions, in (0, 1), ascending; empty before it is measured.
        values: loss or error there.
    """

    address: str
    left: Weights
    right: Weights
    s: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    values: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))

    @property
    def top(self) -> float:
        """The highest value inside it."""
        return float(self.values.max())

    def start(self, jitter: float, generator: torch.Generator, held: Sequence[slice] = ()) -> Weights:
        """Where its bead starts: the highest tested position, and a little beside it.

        Between a network and its copy with two units swapped, the middle has two equal units, which no
        descent can tell apart: exactly there a bead would stay in the symmetric subspace for ever.

        Args:
            jitter: how far beside it, as a share of the piece's length.
            generator: gives the direction.
            held: parts of the vector that training holds still; they stay.
        """
        top = Chain((self.left, self.right))(float(self.s[self.values.argmax()]))
        if not jitter:
            return top
        aside = torch.randn(top.vector.shape, generator=generator, dtype=torch.float64)
        for part in held:
            aside[part] = 0
        aside *= jitter * self.left.distance(self.right) / max(float(aside.norm()), 1e-300)
        return Weights(top.layout, top.vector + aside.to(top.vector))

    def halves(self, bead: Weights) -> tuple[Piece, Piece]:
        """The two pieces that a bead makes of it."""
        return Piece(self.address + "0", self.left, bead), Piece(self.address + "1", bead, self.right)


@dataclass(frozen=True, eq=False)
class Bead:
    """A trained bead.

    Attributes:
        weights: where it came to rest.
        value: its loss or error on the whole training split.
        steps: gradient steps taken.
        finite: whether every loss on the way was a number.
    """

    weights: Weights
    value: float
    steps: int
    finite: bool


@dataclass(frozen=True, eq=False)
class Trainer:
    """Trains the bead of a piece; finished ones are kept, each in a piece of the store of its own."""

    a: Weights
    b: Weights
    landscape: AbstractLandscape
    settings: StringSettings
    identity: str
    store: Store
    progress: Progress

    def __call__(self, piece: Piece) -> Bead:
        """The bead of this piece, as it was kept or newly trained."""
        place = self.store.part(f"bead{piece.address}")
        if (saved := place.load(self.identity)) is not None:
            tensors, fields = saved
            weights = Weights(self.a.layout, tensors["vector"].to(self.a.vector))
            return Bead(weights, float.fromhex(fields["value"]), int(fields["steps"]), fields["finite"])
        descent = _Descent(self, piece)
        training = place.part("training")
        course = take_steps(descent, digest_of(self.identity, piece.address), training, self.progress)
        finite = course.finite and bool(descent.vector.isfinite().all())
        bead = Bead(descent.bead, descent.value() if finite else math.inf, course.taken, finite)
        fields = {"value": bead.value.hex(), "steps": bead.steps, "finite": finite}
        place.save(self.identity, {"vector": bead.weights.vector}, fields)
        training.clear()
        return bead


class _Descent:
    """The training of one bead, from the highest point of its piece to α L₀, as a procedure of steps."""

    def __init__(self, trainer: Trainer, piece: Piece) -> None:
        self.trainer, self.landscape, self.settings = trainer, trainer.landscape, trainer.settings
        self.steps = self.settings.steps
        self.per_epoch = self.landscape.steps_per_epoch(self.settings.batch)
        self.name = f"bead at depth {len(piece.address) + 1}"
        self.seed = child_seed(self.settings.seed, "bead", piece.address)
        start = piece.start(self.settings.jitter, seeded(self.seed, "jitter"), self.landscape.frozen)
        self.vector = start.vector.to(self.landscape.device, copy=True)
        self.velocity, self.gradient = torch.zeros_like(self.vector), torch.zeros_like(self.vector)
        self.rates = CurveSettings(1, self.settings.batch, self.settings.rate)

    @contextmanager
    def begin(self, start: int) -> Iterator[Callable[[int], float | None]]:
        """Step k, preceded by a look at the loss where one is due; the descent is left for that.

        A network is at one point at a time, so the descent is closed before it is evaluated elsewhere.
        """
        batches = self.landscape.stream(self.seed, self.settings.batch, start)
        with ExitStack() as stack:
            slope = stack.enter_context(self.landscape.descent(self.vector, self.gradient))

            def take(step: int) -> float | None:
                nonlocal slope
                if step and step % self.settings.check == 0:
                    stack.close()
                    if self.value() <= self.settings.target:
                        return None
                    slope = stack.enter_context(self.landscape.descent(self.vector, self.gradient))
                torch.mul(self.vector, self.settings.decay, out=self.gradient)
                loss = slope(next(batches))
                self.velocity.mul_(self.settings.momentum).add_(self.gradient)
                self.vector.add_(self.velocity, alpha=-self.rates.rate_at(step, self.steps))
                return loss

            yield take

    @property
    def bead(self) -> Weights:
        """The present weights, where the ends live."""
        a = self.trainer.a
        return Weights(a.layout, self.vector.to(a.vector, copy=True))

    def value(self) -> float:
        """Loss or error on the whole training split, as a point of a path between the ends."""
        path = Chain((self.trainer.a, self.bead, self.trainer.b))
        found = self.landscape.evaluate(path.at(torch.tensor([0.5])), "train")
        return float(values_of(found, self.settings.of)[0])

    def tensors(self) -> dict[str, Tensor]:
        """The bead and its velocity."""
        return {"vector": self.vector, "velocity": self.velocity}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put them back."""
        self.vector.copy_(tensors["vector"])
        self.velocity.copy_(tensors["velocity"])


def values_of(found: Evaluation, of: Quantity) -> Tensor:
    """The mean loss or error of every point; what is not a number counts as infinite."""
    _require_quantity(of)
    values = found.mean_loss if of == "loss" else found.mean_error
    return values.nan_to_num(nan=math.inf, posinf=math.inf)


def _require_quantity(of: str) -> None:
    if of not in ("loss", "error"):
        raise SettingError(f"expected a level of 'loss' or 'error', got {of!r}")


def highest_by(found: Evaluation, t: Tensor, of: Quantity) -> Saddle:
    """The highest of some evaluated positions of a path, by loss or by error.

    Args:
        found: the evaluation at these positions.
        t: the positions, shape (points,).
        of: what makes a position the highest.
    """
    top = int(values_of(found, of).argmax())
    loss, error = float(found.mean_loss[top]), float(found.mean_error[top])
    return Saddle(loss, error, float(t[top]), found.split, found.examples, len(t))
