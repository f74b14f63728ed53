"""Dynamic string sampling: is there a path between two networks on which the loss never exceeds a level?

A chain begins as the straight segment. Where a piece of it rises above the level, a bead is put at the
piece's highest point and trained down to just below the level, and both halves are looked at again. It ends
when no piece rises above the level (a certificate, at the tested positions), or when it has gone too deep.

Source: Freeman & Bruna 2017, arXiv 1611.01540, section 4 and algorithm 1; numbers from its published code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from isthmus.barriers import Quantity
from isthmus.connect.abstract import AbstractConnector, Connection, Outcome, Saddle
from isthmus.connect.beads import Piece, StringSettings, Trainer, highest_by, values_of
from isthmus.connect.curve import CurveSettings
from isthmus.errors import SettingError
from isthmus.fanout import Fanout
from isthmus.identity import digest_of
from isthmus.io.state import NoStore, Store
from isthmus.landscape import AbstractLandscape, Landscape, Recipe
from isthmus.landscape.abstract import serial
from isthmus.path import Chain
from isthmus.progress import Progress, Silent, Titled
from isthmus.weights import Weights

StoppedBy = Literal["", "depth", "steps", "divergence"]


def string_sampling(
    a: Weights,
    b: Weights,
    landscape: AbstractLandscape,
    *,
    level: float | None = None,
    times: float = 1.05,
    of: Quantity = "loss",
    tolerance: float = 0.02,
    alpha: float = 0.98,
    depth: int = 10,
    positions: int = 19,
    refine: int = 2,
    jitter: float = 1e-3,
    steps: int | None = None,
    check: int | None = None,
    batch: int | None = None,
    rate: float | None = None,
    momentum: float | None = None,
    decay: float | None = None,
    seed: int = 0,
    store: Store | None = None,
    progress: Progress | None = None,
    fanout: Fanout | None = None,
) -> Connection:
    """Look for a chain from a to b that stays below a level of the training loss.

    On each piece between neighbours t* is the highest tested position. If it exceeds L₀ (1 + tolerance), a
    bead is inserted at t* and trained by SGD until its loss on the whole training split is at most α L₀;
    then both halves are looked at, and so on, until nothing is above, or a piece at the full depth is.

    Args:
        a: one end; it stays.
        b: the other end; it stays.
        landscape: gives losses and gradients. Its `limit` bounds what the "whole" training split is.
        level: L₀. By default `times` the loss (or error) of the worse end.
        times: see `level`; not used where a level is given.
        of: what the level is of: "loss" or "error", on the training split. Beads descend the loss anyhow.
        tolerance: see above; 0.02 as in the published code.
        alpha: see above; 0.98 as published.
        depth: how many times a piece may be halved; 10 as published.
        positions: tested inside every piece, evenly.
        refine: rounds of refinement around the highest of them, each of two more positions.
        jitter: how far a bead's start is moved from t* in a random direction, as a share of its piece's
            length: it breaks symmetries that no descent leaves, as between a network and its copy with two
            units swapped. 0 is the published algorithm.
        steps: gradient steps a bead may take; as many as the task's recipe takes in all by default. A bead
            that is then still above the level ends the search: what is asked for was not found.
        check: gradient steps between two looks at a bead; a quarter of an epoch by default.
        batch: examples a step; the recipe's by default.
        rate: the peak rate; 0.3 of the recipe's SGD rate by default.
        momentum: of SGD; the recipe's by default.
        decay: weight decay of a bead; the recipe's by default.
        seed: of everything random here. The same seed gives the same chain, however often interrupted, and
            however many workers there are.
        store: where finished beads, and the state of those in training, are kept for resuming.
        progress: shows evaluations and beads.
        fanout: spreads the beads of one depth, which are independent, and the evaluations.

    Returns:
        A `Connection`: `path` a `Chain` through the beads, as far as it got; `outcome` CONNECTED_AT_LEVEL,
        NOT_FOUND_WITHIN_DEPTH or DIVERGED; `saddle` the highest tested position of the whole chain
        (by what the level is of), evaluated once more when the search has ended; `history` the highest
        tested loss (or error) inside the chain at depth 0 (the straight segment), 1, …; `steps` those of all
        beads; `settings` with the level used, the number of `beads`, the depth that was reached
        (`depth_reached`), and what ended an unsuccessful search (`stopped_by`: "depth", "steps" or
        "divergence"). The normalised length of the paper is `connection.path.length` over
        `connection.endpoint_distance`: 1 where the level set is convex between the ends.

    Raises:
        SettingError: an end lies above the level, or a setting is out of range.

    Limits: success is a certificate at the tested positions of this training split (`saddle.points` of
    them, `saddle.examples` examples), no more: between them the loss may be higher. Failure proves nothing:
    two networks may be connected by a path that this search does not find. Beads carry no buffers: under
    batch norm evaluate with "recalibrate".

    Cost: in the worst case 2^depth beads; in practice far fewer, and an unsuccessful search mostly ends at a
    few beads a depth. Each bead costs its steps and one pass over the training split a check, each piece
    `positions` + 2 `refine` passes, and the certificate as many again.

    Example:
        >>> import torch
        >>> from isthmus.landscape import AnalyticLandscape
        >>> ring = AnalyticLandscape(lambda x: (x.square().sum() - 1).square())
        >>> ends = [Weights.from_state_dict({"x": torch.tensor(p)}) for p in ([1.0, 0.0], [0.0, 1.0])]
        >>> found = string_sampling(*ends, ring, level=0.05, rate=0.1, steps=100, decay=0.0)
        >>> found.outcome.name, found.saddle.loss <= 0.05 * 1.02, len(found.path.controls)
        ('CONNECTED_AT_LEVEL', True, 3)

    Source: Freeman & Bruna 2017, arXiv 1611.01540, algorithm 1 (which allows any stationary point, or the
    middle, as t*; its figure and code take the maximum); `positions`, `tolerance`, `alpha` and `depth` from
    the code published with it. That code has no bound on a bead's steps.
    """
    fanout = serial(fanout)
    recipe = CurveSettings.from_recipe(
        landscape.recipe, batch=batch, rate=rate, momentum=momentum, decay=decay
    )
    per_epoch = landscape.steps_per_epoch(recipe.batch)
    ends = values_of(landscape.evaluate(Chain((a, b)).at(torch.tensor([0.0, 1.0])), "train"), of).tolist()
    settings = StringSettings(
        _level(level, times, max(ends), of), of, tolerance, alpha, depth, positions, refine, jitter,
        max(1, round(recipe.epochs * per_epoch)) if steps is None else steps,
        max(1, per_epoch // 4) if check is None else check,
        recipe.batch, recipe.rate, recipe.momentum, recipe.decay, seed,
    )  # fmt: skip
    require_ends_below(ends, settings.level, of)
    search = _Search(a, b, landscape, settings, store or NoStore(), progress or Silent(), fanout)
    return search.run()


def require_ends_below(ends: Sequence[float], level: float, of: str = "loss") -> None:
    """Refuse a level that the ends themselves do not reach.

    Args:
        ends: loss (or error) of both ends on the training split.
        level: L₀.
        of: what these are of.

    Raises:
        SettingError: one of them lies above the level, or is not a number.
    """
    if not all(value <= level for value in ends):
        first, last = (f"{value:.4g}" for value in ends)
        raise SettingError(
            f"the level {level:.4g} lies below an end's own training {of}: the first end has {first}, the "
            f"last {last}; no path between them can stay below it. Give a level of at least "
            f"{_rounded_up(max(ends))}, or train the ends further"
        )


def _rounded_up(value: float) -> str:
    """Four digits that are not below the value."""
    told = f"{value:.4g}"
    return told if not float(told) < value else f"{value * (1 + 1e-3):.4g}"


@dataclass(frozen=True)
class StringConnector(AbstractConnector):
    """`string_sampling` with its settings held.

    Attributes:
        level: see `string_sampling`, as for all that follow; by default `times` the worse end's loss.
        times: likewise.
        of: likewise.
        tolerance: likewise.
        alpha: likewise.
        depth: likewise.
        positions: likewise.
        refine: likewise.
        jitter: likewise.
        steps: likewise.
        check: likewise.
        batch: likewise.
        rate: likewise.
        momentum: likewise.
        decay: likewise.
        seed: likewise.
        fanout: likewise.
    """

    level: float | None = None
    times: float = 1.05
    of: Quantity = "loss"
    tolerance: float = 0.02
    alpha: float = 0.98
    depth: int = 10
    positions: int = 19
    refine: int = 2
    jitter: float = 1e-3
    steps: int | None = None
    check: int | None = None
    batch: int | None = None
    rate: float | None = None
    momentum: float | None = None
    decay: float | None = None
    seed: int = 0
    fanout: Fanout | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Refuse what no landscape could make sense of; the recipe's settings stand for what is left open."""
        if not 1 <= self.times < math.inf:
            raise SettingError(f"times is of the worse end's {self.of}: at least 1, got {self.times}")
        recipe = Recipe()
        StringSettings(
            1.0 if self.level is None else self.level, self.of, self.tolerance, self.alpha, self.depth,
            self.positions, self.refine, self.jitter, 1 if self.steps is None else self.steps,
            1 if self.check is None else self.check, 1 if self.batch is None else self.batch,
            recipe.rate if self.rate is None else self.rate,
            recipe.momentum if self.momentum is None else self.momentum,
            recipe.weight_decay if self.decay is None else self.decay, self.seed,
        )  # fmt: skip

    def connect(
        self,
        points: Sequence[Weights],
        landscape: AbstractLandscape,
        *,
        store: Store | None = None,
        progress: Progress | None = None,
    ) -> Connection:
        """Search for a chain from the first of two points to the second."""
        if len(points) != 2:
            raise SettingError(f"a string joins two points, got {len(points)}; give the two ends")
        return string_sampling(
            points[0], points[1], landscape, level=self.level, times=self.times, of=self.of,
            tolerance=self.tolerance, alpha=self.alpha, depth=self.depth, positions=self.positions,
            refine=self.refine, jitter=self.jitter, steps=self.steps, check=self.check, batch=self.batch,
            rate=self.rate, momentum=self.momentum, decay=self.decay, seed=self.seed, store=store,
            progress=progress, fanout=self.fanout,
        )  # fmt: skip


@dataclass
class _Search:
    """The search: pieces are measured, beads are put on those that rise too high, until there are none."""

    a: Weights
    b: Weights
    landscape: AbstractLandscape
    settings: StringSettings
    store: Store
    progress: Progress
    fanout: Fanout

    def __post_init__(self) -> None:
        self.pieces = [Piece("", self.a, self.b)]
        self.round, self.steps, self.history = 0, 0, list[float]()
        limits = {}
        if isinstance(self.landscape, Landscape):  # what is measured depends on these, the gradients do not
            land = self.landscape
            limits = {"limit": land.limit, "policy": land.policy, "recalibration": land.recalibration}
        ends = (self.a.digest(), self.b.digest())
        self.identity = digest_of(asdict(self.settings), ends, self.landscape.identity, limits)

    def run(self) -> Connection:
        """Deeper and deeper, until it is done."""
        stopped: StoppedBy = ""
        while True:
            self._measure()
            self.history.append(max(piece.top for piece in self.pieces))
            above = self._above()
            if not above and not stopped:
                saddle = self._certify()
                above = self._above()  # a last bit may differ from the first measurement
                if not above and getattr(saddle, self.settings.of) <= self.settings.ceiling:
                    return self._connection(Outcome.CONNECTED_AT_LEVEL, stopped, saddle)
                stopped = stopped if above else "steps"  # a bead that is above as a point of this chain
            if not stopped and self._depth(above) >= self.settings.depth:
                stopped = "depth"
            if stopped:
                diverged = stopped == "divergence"
                outcome = Outcome.DIVERGED if diverged else Outcome.NOT_FOUND_WITHIN_DEPTH
                return self._connection(outcome, stopped, self._certify())
            stopped = self._split(above)

    def _above(self) -> list[int]:
        """The pieces that rise above the level; what is not a number is above."""
        return [i for i, piece in enumerate(self.pieces) if not piece.top <= self.settings.ceiling]

    def _depth(self, chosen: Sequence[int]) -> int:
        return max(len(self.pieces[i].address) for i in chosen)

    def _chain(self) -> Chain:
        return Chain((self.a, *(piece.right for piece in self.pieces)))

    def _measure(self) -> None:
        """Test the new pieces: an even grid, then around the highest position; each by one evaluation."""
        fresh = [i for i, piece in enumerate(self.pieces) if not len(piece.s)]
        if not fresh:
            return
        place = self.store.part(f"round-{self.round}")
        if (saved := place.load(self.identity)) is not None:
            s, values = saved[0]["s"], saved[0]["values"]
        else:
            s, values = self._tested(fresh)
            place.save(self.identity, {"s": s, "values": values}, {})
        for row, i in enumerate(fresh):
            self.pieces[i] = replace(self.pieces[i], s=s[row], values=values[row])
        self.round += 1

    def _tested(self, fresh: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Positions and values of these pieces, each of shape (pieces, positions)."""
        grid = torch.linspace(0, 1, self.settings.positions + 2, dtype=torch.float64)[1:-1]
        s = grid.expand(len(fresh), -1)
        values = self._values(fresh, s)
        for _ in range(self.settings.refine):
            more = _around_maximum(s, values)
            s, order = torch.cat([s, more], dim=1).sort(dim=1)
            values = torch.cat([values, self._values(fresh, more)], dim=1).gather(1, order)
        return s, values

    def _values(self, chosen: Sequence[int], s: Tensor) -> Tensor:
        """Loss or error on pieces of the chain, by one pass over the data for all."""
        t = (torch.tensor(chosen, dtype=torch.float64)[:, None] + s) / len(self.pieces)
        shown = Titled(self.progress, f"string at depth {self._depth(chosen)}")
        found = self.landscape.evaluate(self._chain().at(t.flatten()), "train", self.fanout, shown)
        return values_of(found, self.settings.of).view(t.shape)

    def _certify(self) -> Saddle:
        """Evaluate the whole chain again, at all tested positions and all beads: the highest of them."""
        chain, count = self._chain(), len(self.pieces)
        inside = [(i + piece.s) / count for i, piece in enumerate(self.pieces)]
        t = torch.cat([torch.arange(count + 1, dtype=torch.float64) / count, *inside])
        shown = Titled(self.progress, "certificate")
        found = self.landscape.evaluate(chain.at(t), "train", self.fanout, shown)
        values = values_of(found, self.settings.of)
        parts = torch.split(values[count + 1 :], [len(piece.s) for piece in self.pieces])
        self.pieces = [replace(piece, values=part) for piece, part in zip(self.pieces, parts, strict=True)]
        return highest_by(found, t, self.settings.of)

    def _split(self, above: Sequence[int]) -> StoppedBy:
        """Put a trained bead on each of these pieces; says what ends the search, if anything does."""
        chosen = [self.pieces[i] for i in above]
        silent = self.fanout.workers > 1
        trainer = Trainer(
            self.a, self.b, self.landscape, self.settings, self.identity, self.store,
            Silent() if silent else self.progress,
        )  # fmt: skip
        beads = dict(zip(above, self.fanout.map(trainer, chosen), strict=True))
        self.steps += sum(bead.steps for bead in beads.values())
        pieces: list[Piece] = []
        for i, piece in enumerate(self.pieces):
            bead = beads.get(i)
            pieces += piece.halves(bead.weights) if bead and bead.finite else (piece,)
        self.pieces = pieces
        if not all(bead.finite for bead in beads.values()):
            return "divergence"
        return "" if all(bead.value <= self.settings.ceiling for bead in beads.values()) else "steps"

    def _connection(self, outcome: Outcome, stopped: StoppedBy, saddle: Saddle) -> Connection:
        told: dict[str, str | int | float] = {"kind": "string", "beads": len(self.pieces) - 1}
        told["depth_reached"] = max(len(piece.address) for piece in self.pieces)
        told["stopped_by"] = stopped
        history = torch.tensor(self.history, dtype=torch.float64)
        return Connection(self._chain(), outcome, history, self.steps, told | asdict(self.settings), saddle)


def _level(level: float | None, times: float, worse: float, of: Quantity) -> float:
    """The level asked for, or `times` what the worse end has."""
    if level is not None:
        return level
    if not times >= 1 or not 0 < worse < math.inf:
        raise SettingError(
            f"a level of {times} times the worse end's {of} of {worse:.4g} makes no sense; give a level"
        )
    return times * worse


def _around_maximum(s: Tensor, values: Tensor) -> Tensor:
    """The middles of the two intervals that meet at each row's highest position: shape (rows, 2)."""
    edge = torch.zeros(len(s), 1, dtype=s.dtype)
    padded = torch.cat([edge, s, edge + 1], dim=1)
    top = values.argmax(dim=1, keepdim=True) + 1
    here = padded.gather(1, top)
    return torch.cat([(padded.gather(1, top + side) + here) / 2 for side in (-1, 1)], dim=1)
