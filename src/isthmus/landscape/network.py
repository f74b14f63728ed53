"""The landscape of a network: loss and error of weights on a task's data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import count, pairwise
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from isthmus.errors import SettingError, TaskError
from isthmus.fanout import Fanout
from isthmus.identity import digest_of
from isthmus.landscape.abstract import AbstractLandscape, Evaluation, require_split, serial
from isthmus.landscape.dataset import Batch, batch_size, to_device
from isthmus.landscape.task import Recipe, Task, default_loss, target_of
from isthmus.network import Network
from isthmus.path import AbstractPath, PathPoints
from isthmus.progress import Progress, Silent
from isthmus.repair.batchnorm import BatchNormPolicy, batchnorm_layers, policy_named, recalibrate
from isthmus.seeds import seed_default
from isthmus.weights import Weights

_KEPT_STATISTICS = 64
"""Points of one path whose batch-norm statistics are kept: as many as a profile has."""
_OUTPUTS_HELD = 1 << 26
"""Bytes of one point's outputs that `predictions` holds at a time."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """What one point says of some batches.

    Attributes:
        point: its number.
        batches: on the landscape's device, targets included.
        outputs: what the task's `forward` gave, one a batch.
    """

    point: int
    batches: list[Batch]
    outputs: list[Any]


@dataclass(frozen=True, eq=False)
class Landscape(AbstractLandscape):
    """From weights to the loss and error of every example, on training and held-out data.

    Attributes:
        task: model, data, loss.
        device: where to compute.
        batchnorm: "recalibrate" (default), "interpolate" or "keep": see `BatchNormPolicy`.
        recalibration: training examples used to measure batch-norm statistics at a point.
        batch: examples a forward pass.
        limit: use only so many examples of each split (all by default): of tensors a fixed random subset, of
            a loader its first.

    Limits: one pass over the data serves all points; memory is O(P + one chunk of data) beyond the
    points × examples numbers kept, if the points are those of a path (`path.at(t)`).
    """

    task: Task
    device: str = "cpu"
    batchnorm: str | BatchNormPolicy = BatchNormPolicy.RECALIBRATE
    recalibration: int = 2048
    batch: int = 256
    limit: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "batchnorm", policy_named(self.batchnorm))
        for name in ("recalibration", "batch", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingError(f"Landscape.{name} must be at least 1, got {value}")

    @cached_property
    def network(self) -> Network:
        """The task's network on this landscape's device."""
        return self.task.network.on(self.device)

    @cached_property
    def policy(self) -> str:
        """The batch-norm policy's name, or "none" if the model keeps no such statistics."""
        assert isinstance(self.batchnorm, BatchNormPolicy)
        return self.batchnorm.value if batchnorm_layers(self.network.module) else "none"

    def evaluate(
        self,
        points: Sequence[Weights],
        split: str = "test",
        fanout: Fanout | None = None,
        progress: Progress | None = None,
    ) -> Evaluation:
        """Loss and error of every point on every example of a split.

        Args:
            points: weights of the task's layout, or `path.at(t)`. Under "interpolate" and "keep", points
                that carry no buffers need a path to take them from.
            split: "train" or "test".
            fanout: spreads the points; each piece reads the data by itself.
            progress: shows how many points are done; silent by default, and where the points are spread.

        Returns:
            Tensors of shape (points, examples) on the CPU.
        """
        require_split(split)
        _require_points(points)
        runner = serial(fanout)
        shown = progress if progress is not None and runner.workers == 1 else Silent()
        pieces = runner.map(lambda piece: self._evaluate(piece, split, shown), _pieces(points, runner))
        return Evaluation(
            torch.cat([loss for loss, _ in pieces]),
            torch.cat([error for _, error in pieces]),
            split,
            self.policy,
        )

    def _evaluate(self, points: Sequence[Weights], split: str, progress: Progress) -> tuple[Tensor, Tensor]:
        """Loss and error, a chunk of the data at a time, every point on each chunk."""
        chunks = enumerate(self.task.split(split).chunks(self.batch, self.limit), start=1)
        buffers: list[Mapping[str, Tensor]] = []
        losses: list[list[Tensor]] = [[] for _ in range(len(points))]
        errors: list[list[Tensor]] = [[] for _ in range(len(points))]
        for number, chunk in chunks:
            batches = [to_device(batch, self.network.device) for batch in chunk]
            for index in _counted(len(points), progress, split, number):
                point = points[index].to(self.network.device)
                with torch.no_grad(), self.network.at(point) as module:
                    if len(buffers) == index:
                        buffers.append(self._buffers(points, index, point, module))
                    self.network.set_buffers(buffers[index])
                    for batch in batches:
                        output = self.task.run(module, batch)
                        losses[index].append(_kept(self.task.losses(output, batch)))
                        errors[index].append(_kept(self.task.errors(output, batch)))
                del point  # before the next is made: one point's memory, not two
        return torch.stack([torch.cat(row) for row in losses]), _shares([torch.cat(row) for row in errors])

    def predictions(
        self,
        points: Sequence[Weights],
        split: str = "test",
        share: tuple[int, int] = (0, 1),
        progress: Progress | None = None,
    ) -> Iterator[Predictions]:
        """The outputs of every point, some batches at a time: one point after the other on the same batches.

        Args:
            points: weights of the task's layout, or `path.at(t)`, as in `evaluate`.
            split: "train" or "test".
            share: (k, n): only every n-th batch, from number k on, for work that is spread over the data.
            progress: shows how many batches are done; silent by default.

        Returns:
            For some batches the outputs of point 0, then of point 1 and so on; then the next batches.

        Limits: memory is one point's outputs on the batches of a turn: 64 MiB, or one batch's. What reads
        them has to reduce them before it asks for more.
        """
        require_split(split)
        _require_points(points)
        buffers: list[Mapping[str, Tensor]] = []
        shown, before = progress or Silent(), 0
        for number, chunk in enumerate(self.task.split(split).chunks(self.batch, self.limit), start=1):
            mine = [batch for at, batch in enumerate(chunk, start=before) if at % share[1] == share[0]]
            before += len(chunk)
            done, total = 0, len(mine) * len(points)
            with shown.bar(_bar_name("predictions", split, number), total) as bar:
                while mine:
                    here: list[Batch] = []
                    for index in range(len(points)):
                        found = self._outputs(points, index, buffers, here or mine, not here)
                        here = found.batches
                        yield found
                        done += len(here)
                        bar(done)
                    mine = mine[len(here) :]

    def _outputs(
        self,
        points: Sequence[Weights],
        index: int,
        buffers: list[Mapping[str, Tensor]],
        batches: list[Batch],
        cut: bool,
    ) -> Predictions:
        """One point's outputs on these batches; if they may be cut, only until enough memory is held."""
        point = points[index].to(self.network.device)
        held, outputs, used = 0, list[Any](), list[Batch]()
        with torch.no_grad(), self.network.at(point) as module:
            if len(buffers) == index:
                buffers.append(self._buffers(points, index, point, module))
            self.network.set_buffers(buffers[index])
            for batch in batches:
                used.append(to_device(batch, self.network.device))
                outputs.append(self.task.run(module, used[-1]))
                held += _bytes_of(outputs[-1])
                if cut and held >= _OUTPUTS_HELD:
                    break
        return Predictions(index, used, outputs)

    def _buffers(
        self, points: Sequence[Weights], index: int, point: Weights, module: nn.Module
    ) -> Mapping[str, Tensor]:
        """The buffers that the policy gives a point whose weights the module holds."""
        base = point.buffers or _from_path(points, index, self.policy == BatchNormPolicy.KEEP.value)
        if self.policy == BatchNormPolicy.RECALIBRATE.value:
            return {**base, **self._measured(points, index, module)}
        if not base and self.policy != "none":
            raise SettingError(
                f"under batchnorm={self.policy!r} a point without buffers needs a path to take them from: "
                "evaluate path.at(t), give the point buffers, or use batchnorm='recalibrate'"
            )
        return base

    def _measured(self, points: Sequence[Weights], index: int, module: nn.Module) -> Mapping[str, Tensor]:
        """Batch-norm statistics at a point; on a path they are kept for the other split."""
        if not isinstance(points, PathPoints):
            return recalibrate(module, self._recalibration_batches, self.task.run)
        kept = self._statistics.setdefault(points.path, {})
        row = tuple(points.coefficients[index].tolist())
        if row not in kept:
            if len(kept) >= _KEPT_STATISTICS:
                kept.clear()
            kept[row] = recalibrate(module, self._recalibration_batches, self.task.run)
        return kept[row]

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # no caches

    @cached_property
    def _statistics(self) -> WeakKeyDictionary[AbstractPath, dict[tuple[float, ...], dict[str, Tensor]]]:
        return WeakKeyDictionary()

    def settled(self, points: Sequence[Weights], index: int = 0) -> Weights:
        """One of some points with the buffers that the policy gives it: a model of its own, to be saved."""
        point = points[index]
        with torch.no_grad(), self.network.at(point.to(self.network.device)) as module:
            found = dict(self.network.reference.buffers) | dict(self._buffers(points, index, point, module))
        return point.with_buffers({name: value.to(point.vector.device) for name, value in found.items()})

    @cached_property
    def _recalibration_batches(self) -> list[Batch]:
        """Training examples, the same for every point."""
        batches: list[Batch] = []
        for chunk in self.task.split("train").chunks(self.batch, self.recalibration):
            batches += [to_device(batch, self.network.device) for batch in chunk]
        if len(batches) > 1 and batch_size(batches[-1]) == 1:
            batches.pop()
        return batches

    @contextmanager
    def descent(
        self,
        vector: Tensor,
        gradient: Tensor,
        buffers: Mapping[str, Tensor] | None = None,
        whole: bool = False,
    ) -> Iterator[Callable[[Any], float]]:
        """Forward and backward in training mode (batch statistics in batch norm), as in plain training.

        The module's buffers start from `buffers`, and change as in training; `network.buffers()` reads them.
        Parameters that training holds still have no gradient, unless it is asked for the `whole` of it.
        """
        if not whole and len(self.network.frozen) == len(self.network.layout.names):
            raise TaskError(
                f"no parameter of the model of {self.task.name} requires gradients: there is nothing to train"
            )
        with self.network.bound(vector, gradient, buffers or {}, whole) as binding:

            def step(batch: Batch) -> float:
                binding.load()
                batch = to_device(batch, self.network.device)
                loss = self._objective(self.task.run(binding.module, batch), batch)
                torch.autograd.backward(loss)
                binding.collect()
                return float(loss.detach())

            yield step

    def _objective(self, output: Any, batch: Batch) -> Tensor:
        smoothing = self.task.recipe.label_smoothing
        if smoothing and self.task.loss is None:
            return default_loss(output, target_of(batch), smoothing).mean()
        return self.task.losses(output, batch).mean()

    def stream(self, seed: int, batch: int, start: int = 0) -> Iterator[Batch]:
        """Training batches with the recipe's augmentation; also seeds dropout, step by step."""
        source = self.task.split("train").stream(seed, batch, start, self.task.recipe.augment)
        for step in count(start):
            found = next(source)
            seed_default(seed, "dropout", step)
            yield found

    @cached_property
    def identity(self) -> str:
        """A digest of the task and the device."""
        return digest_of(self.task.identity, self.device)

    @property
    def recipe(self) -> Recipe:
        """The task's recipe."""
        return self.task.recipe

    @property
    def frozen(self) -> list[slice]:
        """The places of the parameters that do not require gradients."""
        return self.network.frozen

    def steps_per_epoch(self, batch: int) -> int:
        """Full batches in the training split."""
        return self.task.split("train").steps_per_epoch(batch)


def _require_points(points: Sequence[Weights]) -> None:
    """Refuse what is no list of points."""
    if isinstance(cast(object, points), Weights):
        raise SettingError("a landscape takes a list of points; for one, give [weights]")
    if not len(points):
        raise SettingError("there are no points to evaluate; give at least one")


def _shares(rows: list[Tensor]) -> Tensor:
    """Errors of all points, each in [0, 1]."""
    found = torch.stack(rows)
    low, high = float(found.min()), float(found.max())
    if low < 0 or high > 1:
        raise TaskError(f"Task.error must lie in [0, 1] for each example, got {low:g} to {high:g}")
    return found


def _kept(values: Tensor) -> Tensor:
    """Per-example values for the record: on the CPU, float32 at least."""
    return (values.float() if values.element_size() < 4 else values).detach().cpu()


def _counted(total: int, progress: Progress, split: str, chunk: int) -> Iterator[int]:
    """The numbers of the points, with a bar; a loader's later chunks of data are told apart."""
    with progress.bar(_bar_name("points", split, chunk), total) as bar:
        for index in range(total):
            yield index
            bar(index + 1)


def _bar_name(what: str, split: str, chunk: int) -> str:
    return f"{what} on {split}" + (f", part {chunk} of the data" if chunk > 1 else "")


def _bytes_of(output: Any) -> int:
    """The memory of an output, where it is made of tensors."""
    if isinstance(output, Tensor):
        return output.nbytes
    parts = output.values() if isinstance(output, Mapping) else output
    return sum(map(_bytes_of, parts)) if isinstance(parts, Iterable) and not isinstance(parts, str) else 0


def _pieces(points: Sequence[Weights], fanout: Fanout) -> list[Sequence[Weights]]:
    """The points in as many runs as the fan-out has workers."""
    workers = min(fanout.workers, len(points))
    bounds = [round(i * len(points) / workers) for i in range(workers + 1)]
    return [points[low:high] for low, high in pairwise(bounds)]


def _from_path(points: Sequence[Weights], index: int, nearest: bool) -> Mapping[str, Tensor]:
    """Buffers for an inner point of a path, from the controls that carry any (the ends, as a rule).

    Either those of the control with the largest coefficient, or the blend by the coefficients, which are
    clamped to 0 and scaled to sum to one. Integer buffers are never blended; equal ones stay as they are.
    """
    if not isinstance(points, PathPoints):
        return {}
    held = [w.buffers for w in points.path.controls]
    share = points.coefficients[index] * torch.tensor([bool(buffers) for buffers in held])
    if not bool(share.any()):
        return next((buffers for buffers in held if buffers), {})
    near = held[int(share.argmax())]
    if nearest:
        return near
    share = share.clamp_min(0)  # off the path (on a plane) a coefficient may be negative; no variance may
    share = share / share.sum()
    return {
        name: sum((float(c) * b[name] for c, b in zip(share, held, strict=True) if c), torch.zeros(()))
        if value.is_floating_point() and any(not torch.equal(value, b[name]) for b in held if b)
        else value
        for name, value in near.items()
    }
