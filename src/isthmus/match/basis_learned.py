"""Refining changes of basis by the task's loss between two models.

Rotations are written as Q = (I + S)⁻¹(I - S) with S skew-symmetric (Cayley), invertible maps within heads
as I + X; both start at the identity, after the maps of the alignment that is refined. The gradient of the
loss at a point between A' and B' is pulled back to S and X.

Source: Theus et al. 2025 (arXiv 2506.22712), learned matching with orthogonal residual maps; that hidden
units are assigned anew by weights between rounds, and not learned, is ours. The Cayley parametrisation:
Lezcano-Casado & Martínez-Rubio 2019 (arXiv 1901.08428), section 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from isthmus.errors import SettingError
from isthmus.landscape import Landscape
from isthmus.landscape.dataset import TensorExamples
from isthmus.match.basis import BasisAlignment, resumed
from isthmus.progress import Progress, Silent
from isthmus.seeds import seeded
from isthmus.symmetry import Outcome
from isthmus.symmetry.linear import Basis
from isthmus.symmetry.linear.bases import changed
from isthmus.weights import Weights, combine

Position = Literal["midpoint", "random"]

_CHOOSING = 512
_SHARE = 10


@dataclass(frozen=True, eq=False)
class Refinement:
    """A refined alignment, and how it was found.

    Attributes:
        alignment: the alignment with the maps that were learned; its objective is the squared distance.
        chosen: the mean loss at the midpoint, on the training examples that decide, of what was kept.
        history: the same at the start and at every evaluation.
    """

    alignment: BasisAlignment
    chosen: float
    history: tuple[float, ...]


def refine_bases(
    alignment: BasisAlignment,
    a: Weights,
    b: Weights,
    landscape: Landscape,
    *,
    steps: int = 300,
    rate: float = 3e-3,
    rounds: int = 3,
    batch: int | None = None,
    position: Position = "midpoint",
    seed: int = 0,
    evaluate_every: int = 20,
    held_out: Landscape | None = None,
    progress: Progress | None = None,
) -> Refinement:
    """Improve an alignment's maps by gradient steps on the task's loss between the two models.

    Which maps are learned is the alignment's own: its residual streams' rotations, and rotations or
    invertible maps within heads, as it was made. The steps are taken in rounds; after each but the last,
    hidden units (not heads) are assigned anew by their weights in the basis that was learned, since a better
    basis tells better which units belong together. The next round goes on from there, whether or not that is
    better yet.

    Args:
        alignment: of `match_bases`.
        a: the weights that stay, as given to `match_bases`.
        b: the weights that are brought to them.
        landscape: gives training batches and gradients.
        steps: gradient steps of Adam in all, the rate falling to zero down a cosine in each round.
        rate: Adam's peak rate, in the elements of S and X.
        rounds: in how many parts the steps are taken.
        batch: examples a step; the recipe's by default.
        position: the loss is taken at the midpoint, or at a random α in [0.2, 0.8] each step.
        seed: of the order of the data and of α.
        evaluate_every: steps between two evaluations of the midpoint.
        held_out: its *training* split decides which step is kept. By default a tenth of the training
            examples, 512 at most, is set aside for that, and not drawn for the steps.
        progress: shows the loss and the time left; silent by default.

    Returns:
        The best alignment, the start included. The test split is never read.

    Raises:
        SettingError: a setting is out of range; or the training data are a loader, from which nothing can be
            set aside, and there is no `held_out`.
        SymmetryError: the weights do not fit the alignment.

    Limits: a local search: it needs a start from which the loss falls.
    Cost: a training step, one matrix inverse a basis and a change of basis of B each step.
    """
    settings = {"steps": steps, "rounds": rounds, "evaluate_every": evaluate_every}
    settings |= {} if batch is None else {"batch": batch}
    if wrong := [name for name, value in settings.items() if value < 1]:
        raise SettingError(f"{wrong[0]} must be at least 1, got {settings[wrong[0]]}")
    if not 0 < rate < math.inf or rounds > steps:
        raise SettingError(f"rate must be above 0 and rounds at most steps, got {rate}, {rounds} and {steps}")
    if position not in get_args(Position):
        raise SettingError(f"the position must be 'midpoint' or 'random', got {position!r}")
    drawn, chooser = _apart(landscape, held_out, seed)
    shares = 0.2 + 0.6 * torch.rand(steps, generator=seeded(seed, "refine", "position"))
    shares = shares if position == "random" else torch.full((steps,), 0.5)
    search = _Search(alignment, a, b, chooser)
    course = _Course(drawn, drawn.stream(seed, batch or landscape.recipe.batch), rate, evaluate_every)
    bounds = [round(number * steps / rounds) for number in range(rounds + 1)]
    with torch.random.fork_rng(), (progress or Silent()).bar("refining the bases", steps) as bar:
        for low, high in pairwise(bounds):
            if low:
                search.reassign()
            for done, loss in course.follow(search, shares[low:high]):
                bar(low + done, f"loss {loss:.4f}, best {search.best:.4f}")
    return search.result()


@dataclass
class _Course:
    """How the steps are taken."""

    landscape: Landscape
    batches: Iterator[Any]
    rate: float
    every: int

    def follow(self, search: _Search, shares: Tensor) -> Iterator[tuple[int, float]]:
        """One round, a step for each share; gives the steps done and the loss at every evaluation."""
        optimizer = torch.optim.Adam(list(search.free.values()), lr=self.rate)
        fixed = search.fixed.vector.to(self.landscape.network.device)
        vector, gradient = torch.empty_like(fixed), torch.zeros_like(fixed)
        for low in range(0, len(shares), self.every):
            loss = math.nan
            with self.landscape.descent(vector, gradient, search.fixed.buffers) as slope:
                for step, share in enumerate(shares[low : low + self.every].tolist(), start=low):
                    optimizer.param_groups[0]["lr"] = self.rate * _cosine(step / len(shares))
                    with torch.enable_grad():
                        image = search.image()
                    torch.lerp(fixed, image.detach().to(fixed), share, out=vector)
                    gradient.zero_()
                    loss = slope(next(self.batches))
                    optimizer.zero_grad()
                    torch.autograd.backward(image, gradient.to(image) * share)
                    optimizer.step()
            if not math.isfinite(loss):
                return
            search.offer()
            yield min(low + self.every, len(shares)), loss


def _cosine(done: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * done))


class _Search:
    """The steps so far, the maps that are learned after them, and the best so far."""

    def __init__(self, alignment: BasisAlignment, a: Weights, b: Weights, chooser: Landscape) -> None:
        self.chooser, self.best_found = chooser, alignment
        self.fixed, self.narrow = alignment.anchor(a), alignment.apply(b)
        self.bases = alignment.symmetry.bases
        if not self.bases:
            raise SettingError("the alignment has no bases to refine: it was made of permutations alone")
        self.state = resumed(alignment, a, b)
        self._start()
        self.best = self._loss(self.narrow)
        self._history = [self.best]

    def _start(self) -> None:
        """Maps that are the identity, after all that came before."""
        self.free = {
            basis.name: torch.zeros(2 * [basis.size - basis.centred], dtype=torch.float64, requires_grad=True)
            for basis in self.bases
        }
        moving = self.state.moving
        self._tensors = {name: moving[name] for name in moving.layout.names}

    def maps(self) -> dict[str, Tensor]:
        """The present map of every basis."""
        rotate = self.best_found.circuits != "invertible"
        return {basis.name: _map(basis, self.free[basis.name], rotate) for basis in self.bases}

    def image(self) -> Tensor:
        """B' after the present maps, shape (P,), float64; differentiable."""
        new = changed(self._tensors, self.bases, self.maps())
        return torch.cat([new.get(name, old).reshape(-1) for name, old in self._tensors.items()])

    def offer(self) -> None:
        """Keep the present maps if they are the best."""
        maps = self._present()
        with torch.no_grad():
            vector = self.image()
        loss = self._loss(Weights(self.fixed.layout, vector.to(self.fixed.vector.dtype), self.narrow.buffers))
        self._history.append(loss)
        if loss < self.best:
            self.best = loss
            gap = vector - self.fixed.vector.double()
            steps = (*self.state.steps, maps)
            self.best_found = replace(self.best_found, steps=steps, objective=float(gap @ gap))

    def reassign(self) -> None:
        """Take the present maps for good, assign the hidden units anew, and begin new maps."""
        maps = self._present()
        if all(bool(matrix.isfinite().all()) for matrix in maps.values()):
            self.state.take(maps, anyway=True)
        self.state.assign_units()
        self._start()

    def result(self) -> Refinement:
        """The best, the start included."""
        return Refinement(replace(self.best_found, outcome=Outcome.BUDGET), self.best, tuple(self._history))

    def _present(self) -> dict[str, Tensor]:
        with torch.no_grad():
            return {name: matrix.detach() for name, matrix in self.maps().items()}

    def _loss(self, moved: Weights) -> float:
        middle = combine((0.5, 0.5), (self.fixed, moved)).with_buffers(self.fixed.buffers)
        value = float(self.chooser.evaluate([middle], "train").loss.double().mean())
        return value if math.isfinite(value) else math.inf


def _map(basis: Basis, free: Tensor, rotate: bool) -> Tensor:
    """The map that the free numbers of a basis stand for."""
    unit = torch.eye(len(free), dtype=free.dtype)
    if basis.kind != "residual" and not rotate:
        return unit + free
    skew = free - free.T
    return basis.embedded(torch.linalg.solve(unit + skew, unit - skew))


def _apart(landscape: Landscape, held_out: Landscape | None, seed: int) -> tuple[Landscape, Landscape]:
    """Where batches are drawn, and where the best is chosen: no training example is in both."""
    if held_out is not None:
        return landscape, held_out
    split = landscape.task.split("train")
    if not isinstance(split, TensorExamples) or len(split) < 2:
        raise SettingError(
            "of a loader's training examples none can be set aside: give held_out, a landscape whose "
            "training split decides what is kept"
        )
    order = torch.randperm(len(split), generator=seeded(seed, "refine", "set aside"))
    count = max(1, min(_CHOOSING, len(split) // _SHARE))
    parts = []
    for chosen in (order[count:], order[:count]):
        data = split.data
        taken = (
            {name: tensor[chosen] for name, tensor in data.items()}
            if isinstance(data, dict)
            else tuple(tensor[chosen] for tensor in data)
        )
        parts.append(replace(landscape, task=replace(landscape.task, train=taken), limit=None))
    return parts[0], parts[1]
