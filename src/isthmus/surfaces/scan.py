"""Evaluating a plane: every node of a grid, or only as many as a precision needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import nan

import torch
from torch import Tensor

from isthmus.errors import SettingError
from isthmus.fanout import Fanout
from isthmus.identity import described, digest_of
from isthmus.io.state import NoStore, Store
from isthmus.landscape import AbstractLandscape, Evaluation
from isthmus.landscape.abstract import require_split
from isthmus.path import AbstractPath, Plane
from isthmus.progress import Bar, Progress, Silent
from isthmus.surfaces.refine import Refinement, coarse_nodes
from isthmus.surfaces.surface import Interpolated, Projected, Quantity, Surface
from isthmus.weights import Weights

_CHUNK = 60
"""Nodes evaluated at a time: few enough that batch-norm statistics measured for one split are still kept for
the other, and that a kill loses little."""
_TRACE = 61
"""Points of a path that is drawn over a plane."""


def scan_plane(
    plane: Plane,
    landscape: AbstractLandscape,
    *,
    names: tuple[str, str, str] = ("A", "B", "C"),
    curve: AbstractPath | None = None,
    curve_name: str = "curve",
    paths: Mapping[str, AbstractPath] | None = None,
    models: Mapping[str, Weights] | None = None,
    resolution: int = 21,
    margin: float = 0.2,
    precision: float | None = None,
    of: Quantity = "loss",
    split: str = "test",
    store: Store | None = None,
    fanout: Fanout | None = None,
    progress: Progress | None = None,
) -> Surface:
    """Evaluate a grid that covers the three models (and the paths) with a margin.

    Args:
        plane: through the three models.
        landscape: where to evaluate.
        names: of the three models, in the plane's order.
        curve: a path to draw over it; points off the plane are projected, and the largest gap is kept.
        curve_name: what to call it.
        paths: further paths by name, likewise; each point's distance from the plane is kept.
        models: further models by name, drawn where their projection lies, with their distance from the plane
            and their own loss and error.
        resolution: nodes along the longer side; at least 3. The grid's cells are square but for
            rounding; the shorter side has at least 3 nodes.
        margin: added on every side, as a share of the extent.
        precision: None evaluates every node. A number between 0 and 1 starts from a coarse grid and evaluates
            more nodes, first those whose side of a contour is in doubt, until the interval of every other
            node has at most this half-width, as a share of the colour scale: 0.02 is a quarter of the
            distance between two contours. What is not evaluated is interpolated, and says so.
        of: the quantity whose precision is meant.
        split: "train" or "test".
        store: keeps the nodes that are done, for resuming; nowhere by default.
        fanout: spreads the nodes.
        progress: shows how many nodes are done; silent by default.

    Returns:
        The surface. The models' own loss and error are evaluated besides the nodes.

    Raises:
        SettingError: a setting outside its range; a model or path of another architecture.

    Cost: one pass over the split a node, and under "recalibrate" one over the recalibration examples besides.
    A loader is read once for every 60 nodes. Refining costs O(k³) for k evaluated nodes, seconds at most.
    Limits: the interval of an interpolated node is about interpolation alone, for the examples evaluated; it
    is an estimate, which holds about 19 times in 20 (`benchmarks/plane.py` measures it).

    Source: Garipov et al. 2018, arXiv 1802.10026, figure 1 and appendix A.2.
    """
    (found,) = scan_splits(
        plane, landscape, names=names, curve=curve, curve_name=curve_name, paths=paths, models=models,
        resolution=resolution, margin=margin, precision=precision, of=of, splits=(split,), store=store,
        fanout=fanout, progress=progress,
    )  # fmt: skip
    return found


def scan_splits(
    plane: Plane,
    landscape: AbstractLandscape,
    *,
    names: tuple[str, str, str] = ("A", "B", "C"),
    curve: AbstractPath | None = None,
    curve_name: str = "curve",
    paths: Mapping[str, AbstractPath] | None = None,
    models: Mapping[str, Weights] | None = None,
    resolution: int = 21,
    margin: float = 0.2,
    precision: float | None = None,
    of: Quantity = "loss",
    splits: Sequence[str] = ("test", "train"),
    store: Store | None = None,
    fanout: Fanout | None = None,
    progress: Progress | None = None,
) -> tuple[Surface, ...]:
    """The same plane on several splits, side by side: the same nodes, batch norm recalibrated once a node.

    Args: see `scan_plane`; `splits` are the data to evaluate on. A precision is reached on all of them.

    Returns:
        One surface a split.
    """
    _require(resolution, margin, precision, of, splits)
    drawn = [_trace(plane, name, path) for name, path in (paths or {}).items()]
    main = None if curve is None else _trace(plane, curve_name, curve)
    placed = [_placed(plane, name, model) for name, model in (models or {}).items()]
    covered = [plane.corners, *(each.points for each in (*drawn, *placed, *([main] if main else [])))]
    x, y = _grid(torch.cat(covered), resolution, margin)
    scan = _Scan(
        plane, landscape, x, y, tuple(splits), list((models or {}).values()), store or NoStore(), fanout,
        progress or Silent(), digest_of(_ends(plane), x.tolist(), y.tolist(), list(splits), precision, of),
    )  # fmt: skip
    refinement = None if precision is None else Refinement(x, y, plane.corners, precision, of)
    scan.run(refinement)
    trace = main or Projected("", "path", torch.zeros(0, 2, dtype=torch.float64), torch.zeros(1), nan, nan)
    return tuple(
        scan.surface(index, names, trace, [*drawn, *placed], refinement) for index in range(len(splits))
    )


def _require(
    resolution: int, margin: float, precision: float | None, of: Quantity, splits: Sequence[str]
) -> None:
    if resolution < 3 or not 0 <= margin < float("inf"):
        raise SettingError(f"expected a resolution of at least 3 and margin >= 0, got {resolution}, {margin}")
    if precision is not None and not 0 < precision < 1:
        raise SettingError(
            f"the precision is a share of the colour scale between 0 and 1 (None evaluates every node), got "
            f"{precision}"
        )
    if of not in ("loss", "error"):
        raise SettingError(f"expected of='loss' or of='error', got {of!r}")
    if not splits:
        raise SettingError("there is no split to evaluate on; give 'test', 'train' or both")
    for split in splits:
        require_split(split)


def _grid(covered: Tensor, resolution: int, margin: float) -> tuple[Tensor, Tensor]:
    """Columns and rows of square cells that cover these points with a margin."""
    low, high = covered.min(dim=0).values, covered.max(dim=0).values
    pad = (high - low).max() * margin
    low, high = low - pad, high + pad
    cell = float((high - low).max()) / (resolution - 1)
    columns, rows = (max(3, round(float(side) / cell) + 1) for side in high - low)
    x = torch.linspace(float(low[0]), float(high[0]), columns, dtype=torch.float64)
    y = torch.linspace(float(low[1]), float(high[1]), rows, dtype=torch.float64)
    return x, y


def _trace(plane: Plane, name: str, path: AbstractPath) -> Projected:
    """A path's projection on the plane, with the distance of each of its points from it.

    A projection is linear, so only the controls are projected; the part of a point off the plane is the same
    blend of the controls' parts, so that its norm needs their inner products alone.
    """
    where, off = plane.project_all(path.controls)
    share = path.coefficients(torch.linspace(0, 1, _TRACE, dtype=torch.float64))
    distance = torch.einsum("nj,jk,nk->n", share, off, share).clamp_min(0).sqrt()
    return Projected(name, "path", share @ where, distance, nan, nan)


def _placed(plane: Plane, name: str, model: Weights) -> Projected:
    x, y, gap = plane.project(model)
    where = torch.tensor([[x, y]], dtype=torch.float64)
    return Projected(name, "model", where, torch.tensor([gap], dtype=torch.float64), nan, nan)


def _ends(plane: Plane) -> list[object]:
    return [described(control.vector) for control in plane.controls]


@dataclass
class _Scan:
    """The nodes of one grid, and what is known of them so far.

    A saved state is a whole number of chunks, and of rounds where a refinement chooses the nodes.

    Attributes:
        known: the nodes that were evaluated, in the order in which they were.
        loss: their mean loss, shape (splits, known).
        error: their error rate, likewise.
        spread: standard errors of both, shape (2, splits, known).
        own: mean loss and error of the models themselves, shape (2, splits, models): the three first.
        examples: how many examples each split gave.
    """

    plane: Plane
    landscape: AbstractLandscape
    x: Tensor
    y: Tensor
    splits: tuple[str, ...]
    others: list[Weights]
    store: Store
    fanout: Fanout | None
    progress: Progress
    identity: str
    known: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    loss: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.float64))
    error: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.float64))
    spread: Tensor = field(default_factory=lambda: torch.zeros(2, 0, 0, dtype=torch.float64))
    own: Tensor = field(default_factory=lambda: torch.zeros(2, 0, 0, dtype=torch.float64))
    examples: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    batchnorm: str = "none"

    def __post_init__(self) -> None:
        settings = [getattr(self.landscape, name, None) for name in ("policy", "recalibration", "limit")]
        others = [described(model.vector) for model in self.others]
        self.identity = digest_of(self.identity, self.landscape.identity, settings, others)
        self.nodes = torch.stack([self.x.repeat(len(self.y)), self.y.repeat_interleave(len(self.x))], dim=1)

    def run(self, refinement: Refinement | None) -> None:
        """Evaluate all nodes, or those that the refinement asks for."""
        self._restore()
        with self.progress.bar("nodes of the plane", len(self.nodes) * len(self.splits)) as bar:
            if not self.own.numel():
                self._models()
            while len(wanted := self._wanted(refinement)):
                for chunk in torch.split(wanted, _CHUNK):
                    self._evaluate(chunk, bar, "" if refinement is None else refinement.note)
                    if refinement is None and self.store.due():
                        self._save()
                # A half round would be taken up as a whole one, and the next nodes chosen from less.
                if refinement is not None and self.store.due():
                    self._save()
        self.store.clear()

    def _wanted(self, refinement: Refinement | None) -> Tensor:
        """The next nodes: those of the round that are not done."""
        if refinement is None:
            return _without(torch.arange(len(self.nodes)), self.known)
        start = _without(coarse_nodes(self.x, self.y, self.plane.corners), self.known)
        if len(start):
            return start
        values = self.loss if refinement.of == "loss" else self.error
        own = self.own[0 if refinement.of == "loss" else 1, :, :3]
        return refinement.next(self.known, values, own, self.examples)

    def _models(self) -> None:
        """The three models and the further ones, by themselves."""
        columns = []
        for split in self.splits:
            found = self.landscape.evaluate(self.plane.at(self.plane.corners), split)
            further = [self.landscape.evaluate([model], split) for model in self.others]
            loss = torch.cat([found.mean_loss, *(each.mean_loss for each in further)])
            error = torch.cat([found.mean_error, *(each.mean_error for each in further)])
            columns.append(torch.stack([loss, error]))
        self.own = torch.stack(columns, dim=1)

    def _evaluate(self, chunk: Tensor, bar: Bar, note: str) -> None:
        """A chunk of nodes on every split; the state is saved when it is time."""
        losses, errors, spreads, examples = [], [], [], []
        done = len(self.known) * len(self.splits)
        for split in self.splits:
            shown = _Within(bar, done, note)
            found = self.landscape.evaluate(self.plane.at(self.nodes[chunk]), split, self.fanout, shown)
            losses.append(found.mean_loss)
            errors.append(found.mean_error)
            spreads.append(torch.stack(_standard_errors(found)))
            examples.append(found.examples)
            self.batchnorm, done = found.batchnorm, done + len(chunk)
        self.loss = torch.cat([self.loss.view(len(self.splits), -1), torch.stack(losses)], dim=1)
        self.error = torch.cat([self.error.view(len(self.splits), -1), torch.stack(errors)], dim=1)
        both = torch.stack(spreads, dim=1)
        self.spread = torch.cat([self.spread.view(2, len(self.splits), -1), both], dim=2)
        self.known, self.examples = torch.cat([self.known, chunk]), torch.tensor(examples)
        bar(done, note)

    def _save(self) -> None:
        state = {
            "known": self.known,
            "loss": self.loss,
            "error": self.error,
            "own": self.own,
            "spread": self.spread,
        }
        self.store.save(self.identity, state | {"examples": self.examples}, {"batchnorm": self.batchnorm})

    def _restore(self) -> None:
        saved = self.store.load(self.identity)
        if saved is not None:
            tensors, fields = saved
            self.known, self.loss, self.error = tensors["known"], tensors["loss"], tensors["error"]
            self.own, self.examples, self.spread = tensors["own"], tensors["examples"], tensors["spread"]
            self.batchnorm = fields["batchnorm"]

    def _squares(self) -> Tensor:
        """‖θ‖² at every node, shape (nodes,)."""
        share, controls = self.plane.coefficients(self.nodes), self.plane.controls
        table = torch.tensor([[one.dot(two) for two in controls] for one in controls], dtype=torch.float64)
        return torch.einsum("nj,jk,nk->n", share, table, share)

    def _spread(self, index: int, means: Tensor, order: Tensor) -> Tensor:
        """Standard errors at every node, shape (2, nodes): that of the nearest node that was evaluated.

        A loss that is larger varies more, so that its standard error is carried over in proportion.
        """
        held = self.spread[:, index]
        if len(self.known) == len(self.nodes):
            return held[:, order]
        nearest = torch.cdist(self.nodes, self.nodes[self.known]).argmin(dim=1)
        share = (means[0] / self.loss[index][nearest]).nan_to_num(nan=1.0).clamp(0, 10)
        return torch.stack([held[0][nearest] * share, held[1][nearest]])

    def surface(
        self,
        index: int,
        names: tuple[str, str, str],
        main: Projected,
        projected: list[Projected],
        refinement: Refinement | None,
    ) -> Surface:
        """What is known of one split, with the rest interpolated."""
        shape, examples = (len(self.y), len(self.x)), int(self.examples[index])
        order = self.known.argsort()
        loss, error, known = self.loss[index][order], self.error[index][order], None
        if refinement is not None:
            filled = refinement.filled(
                self.known, self.loss[index], self.error[index], self.own[:, index, :3], examples
            )
            (loss, error), (low, high), half = filled.means, filled.bounds, filled.reached
            evaluated = torch.zeros(len(self.nodes), dtype=torch.bool)
            evaluated[self.known] = True
            known = Interpolated(
                evaluated.view(shape), low[0].view(shape), high[0].view(shape), low[1].view(shape),
                high[1].view(shape), refinement.precision, half, refinement.of,
            )  # fmt: skip
        spread = self._spread(index, torch.stack([loss, error]), order)
        further = iter(self.own[:, index, 3:].T.tolist())
        told = [_scored(each, next(further)) if each.kind == "model" else each for each in projected]
        return Surface(
            self.x, self.y, loss.view(shape), error.view(shape), tuple(names), self.plane.corners,
            main.points, main.name, main.gap, self.splits[index], examples, self.batchnorm,
            self.own[0, index, :3].clone(), self.own[1, index, :3].clone(), spread[0].view(shape),
            spread[1].view(shape), self._squares().view(shape),
            self.landscape.recipe.weight_decay, tuple(told), known,
        )  # fmt: skip


def _standard_errors(found: Evaluation) -> tuple[Tensor, Tensor]:
    """Of each point's mean loss and error rate, each of shape (points,).

    Source: Agresti & Coull 1998, The American Statistician 52(2) (two right and two wrong examples added).
    """
    count = found.examples
    loss = found.loss.double().std(dim=1) if count > 1 else torch.zeros(found.points, dtype=torch.float64)
    rate = (found.mean_error * count + 2) / (count + 4)
    return (loss / count**0.5).nan_to_num(nan=float("inf")), (rate * (1 - rate) / (count + 4)).sqrt()


def _scored(model: Projected, own: Sequence[float]) -> Projected:
    return Projected(model.name, model.kind, model.points, model.distance, own[0], own[1])


def _without(nodes: Tensor, known: Tensor) -> Tensor:
    return nodes[~torch.isin(nodes, known)]


@dataclass(frozen=True)
class _Within:
    """Shows the points of one evaluation as a part of the whole scan."""

    outer: Bar
    before: int
    note: str

    @contextmanager
    def bar(self, name: str, total: int, start: int = 0) -> Iterator[Bar]:
        """A bar that moves the outer one."""
        yield lambda done, note="": self.outer(self.before + done, self.note)
