"""Examples: resident tensors (the fast path) or any loader, read in order or as a shuffled stream."""

from __future__ import annotations

import abc
import hashlib
import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy
import torch
from torch import Tensor

from isthmus.errors import DataError
from isthmus.identity import described, digest_of
from isthmus.seeds import child_seed, seeded

Batch = Any
"""What a model's forward takes: a tuple (inputs…, target), or a mapping of tensors with "labels"."""

Augment = Callable[[Tensor, torch.Generator], Tensor]
"""Changes a batch of inputs, with a generator for its randomness."""

_FINGERPRINTED = 16


class Examples(abc.ABC):
    """One data split."""

    @abc.abstractmethod
    def chunks(self, batch: int, limit: int | None = None) -> Iterator[list[Batch]]:
        """The split in its own order, as lists of batches that fit in memory together.

        Args:
            batch: examples a batch (a loader keeps its own batches).
            limit: only so many examples: tensors give a fixed random subset, a loader its first.
        """

    def even_batches(self, batch: int, limit: int | None = None) -> Iterator[Batch]:
        """The same examples one batch after the other, all of one size: a smaller last one is left out.

        Args:
            batch: examples a batch, at most (a loader keeps its own batches).
            limit: as in `chunks`.
        """
        size = 0
        for held in self.chunks(batch, limit):
            for found in held:
                size = size or batch_size(found)
                if batch_size(found) == size:
                    yield found

    @abc.abstractmethod
    def stream(
        self, seed: int, batch: int, start: int = 0, augment: Augment | None = None
    ) -> Iterator[Batch]:
        """An endless shuffled stream of batches, a pure function of the seed, from step `start` on."""

    @abc.abstractmethod
    def steps_per_epoch(self, batch: int) -> int:
        """Batches in one pass of the stream."""

    @abc.abstractmethod
    def first(self, count: int) -> Batch:
        """The first `count` examples (or the first batch of a loader, cut to that many) as one batch."""

    @abc.abstractmethod
    def count(self, limit: int | None = None) -> int:
        """How many examples there are, `limit` at most (a loader is read once for it)."""

    @abc.abstractmethod
    def part(self, start: int, stop: int) -> Examples:
        """The examples from number `start` to before `stop` of a fixed order, as a split of their own.

        Tensors are in one fixed random order, of which `chunks` takes the head when it is limited; a loader
        is in its own. So parts that follow one another add up to a subset that grows.
        """

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str:
        """A digest of the data, for the identity of a run."""


class TensorExamples(Examples):
    """Examples resident in memory: a tuple of tensors, the target last, or a mapping of tensors.

    Args:
        data: tensors whose first dimension counts the examples.
        name: how to name the split in errors.

    Raises:
        DataError: no examples, no targets, or tensors of different lengths.
    """

    def __init__(self, data: Sequence[Tensor] | Mapping[str, Tensor], name: str = "data") -> None:
        self.data: tuple[Tensor, ...] | dict[str, Tensor]
        self.data = dict(data) if isinstance(data, Mapping) else tuple(data)
        tensors = self._tensors
        if any(not isinstance(tensor, Tensor) for tensor in tensors):
            kinds = ", ".join(type(tensor).__name__ for tensor in tensors)
            raise DataError(f"the {name} examples must be tensors, got {kinds}")
        if len(tensors) < 2:
            raise DataError(
                f"the {name} examples have no labels: expected a pair (inputs, targets) or a mapping with "
                f"'labels', got {len(tensors)} tensor{'s' * (len(tensors) != 1)}"
            )
        lengths = {len(tensor) if tensor.dim() else 0 for tensor in tensors}
        if len(lengths) != 1:
            raise DataError(f"the {name} tensors differ in their number of examples: {sorted(lengths)}")
        if lengths == {0}:
            raise DataError(f"the {name} examples are empty: at least one example is needed")

    @property
    def _tensors(self) -> tuple[Tensor, ...]:
        return tuple(self.data.values()) if isinstance(self.data, dict) else self.data

    def __len__(self) -> int:
        return len(self._tensors[0])

    def _select(self, where: Tensor | slice) -> Batch:
        if isinstance(self.data, dict):
            return {name: tensor[where] for name, tensor in self.data.items()}
        return tuple(tensor[where] for tensor in self.data)

    def chunks(self, batch: int, limit: int | None = None) -> Iterator[list[Batch]]:
        """One chunk: views of all examples, or a fixed random subset of fewer (the data may be sorted)."""
        total = min(len(self), limit or len(self))
        chosen = None if total == len(self) else self._subset(total)
        bounds = [(at, min(at + batch, total)) for at in range(0, total, batch)]
        yield [self._select(slice(low, high) if chosen is None else chosen[low:high]) for low, high in bounds]

    def even_batches(self, batch: int, limit: int | None = None) -> Iterator[Batch]:
        """Batches of one size, as large as `batch` allows; up to one example a batch less than `limit`."""
        total = min(len(self), limit or len(self))
        number = -(-total // batch)
        size = total // number
        chosen = None if total == len(self) else self._subset(total)
        for low in range(0, size * number, size):
            here = slice(low, low + size)
            yield self._select(here if chosen is None else chosen[here])

    def _subset(self, size: int) -> Tensor:
        """The same examples for every point and every run."""
        return torch.randperm(len(self), generator=seeded(0, "subset"))[:size]

    def stream(
        self, seed: int, batch: int, start: int = 0, augment: Augment | None = None
    ) -> Iterator[Batch]:
        """Full batches only, unless there are fewer examples than one batch."""
        steps = self.steps_per_epoch(batch)
        for epoch in itertools.count(start // steps):
            order = torch.randperm(len(self), generator=seeded(seed, "order", epoch))
            for step in range(start % steps if epoch == start // steps else 0, steps):
                chosen = self._select(order[step * batch : (step + 1) * batch])
                if augment is not None and not isinstance(chosen, dict):
                    noise = seeded(seed, "augment", epoch * steps + step)
                    chosen = (augment(chosen[0], noise), *chosen[1:])
                yield chosen

    def steps_per_epoch(self, batch: int) -> int:
        """⌊examples / batch⌋, at least 1."""
        return max(len(self) // batch, 1)

    def first(self, count: int) -> Batch:
        """The first examples."""
        return self._select(slice(0, count))

    def count(self, limit: int | None = None) -> int:
        """The length of the tensors."""
        return min(len(self), limit or len(self))

    def part(self, start: int, stop: int) -> TensorExamples:
        """A copy of these examples of the fixed random order."""
        return TensorExamples(self._select(self._subset(len(self))[start:stop]))

    @cached_property
    def fingerprint(self) -> str:
        """A SHA-256 over shapes, dtypes and contents."""
        total = hashlib.sha256()
        names = self.data if isinstance(self.data, dict) else range(len(self.data))
        for name, tensor in zip(names, self._tensors, strict=True):
            total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return total.hexdigest()


class LoaderExamples(Examples):
    """Examples from a `DataLoader` or any other re-iterable of batches.

    The loader's batches are used as they come. Its shuffling and transforms are made reproducible: the
    generators of torch, numpy and `random` are seeded for every batch and put back after it, and those that
    the loader and its sampler hold are seeded before each pass. (Worker processes draw their seeds from
    these.)

    Args:
        loader: gives batches each time it is iterated.
        name: how to name the split in errors.
        memory: bytes of batches to hold at a time during an evaluation.
    """

    def __init__(self, loader: Iterable[Batch], name: str = "data", memory: int = 1 << 28) -> None:
        if iter(loader) is loader:
            raise DataError(
                f"the {name} examples are an iterator, which can be read only once; pass a DataLoader"
            )
        self.loader = loader
        self.name = name
        self.memory = memory

    def _pass(self, *name: object) -> Iterator[Batch]:
        """One pass over the loader; every batch is drawn under a seed of its own."""
        iterator: Iterator[Batch] | None = None
        for index in itertools.count():
            with _everything_seeded(child_seed(0, *name, index)) as number:
                if iterator is None:
                    for generator in _generators(self.loader):
                        generator.manual_seed(number)
                    iterator = iter(self.loader)
                batch = next(iterator, None)
            if batch is None:
                break
            yield _labelled(batch, self.name)
        if not index:
            raise DataError(f"the {self.name} loader gives no batches: at least one example is needed")

    def chunks(self, batch: int, limit: int | None = None) -> Iterator[list[Batch]]:
        """Lists of the loader's batches of up to `memory` bytes each."""
        held: list[Batch] = []
        size, left = 0, limit
        for found in self._pass("evaluate"):
            cut = found if left is None else _head(found, left)
            held.append(cut)
            size += sum(tensor.nbytes for tensor in _tensors_of(cut))
            left = None if left is None else left - batch_size(cut)
            if left is not None and left <= 0:
                break
            if size >= self.memory:
                yield held
                held, size = [], 0
        if held:
            yield held

    def stream(
        self, seed: int, batch: int, start: int = 0, augment: Augment | None = None
    ) -> Iterator[Batch]:
        """The loader's own batches, pass after pass; to resume, the begun pass is read and skipped."""
        steps = self.steps_per_epoch(batch)
        for epoch in itertools.count(start // steps):
            skip = start % steps if epoch == start // steps else 0
            yield from itertools.islice(self._pass("order", seed, epoch), skip, None)

    def steps_per_epoch(self, batch: int) -> int:
        """The loader's length; one pass is counted if it has none."""
        return self._length

    @cached_property
    def _length(self) -> int:
        return len(self.loader) if isinstance(self.loader, Sized) else sum(1 for _ in self._pass("length"))

    def first(self, count: int) -> Batch:
        """The head of the first batch."""
        return _head(next(self._pass("evaluate")), count)

    def count(self, limit: int | None = None) -> int:
        """Counted in one pass, which ends at the limit."""
        return sum(batch_size(batch) for held in self.chunks(1, limit) for batch in held)

    def part(self, start: int, stop: int) -> LoaderExamples:
        """Read from the loader, which is skipped up to `start`, each time."""
        return LoaderExamples(_Part(self, start, stop), self.name, self.memory)

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the number of batches and the first 16 of them: large sets are not read whole."""
        heads = itertools.islice(self._pass("evaluate"), _FINGERPRINTED)
        return digest_of(self._length, [described(_tensors_of(batch)) for batch in heads])


class _Part:
    """Batches of a loader from one example to before another."""

    def __init__(self, whole: LoaderExamples, start: int, stop: int) -> None:
        self.whole, self.start, self.stop = whole, start, stop

    def __iter__(self) -> Iterator[Batch]:
        seen = 0
        for held in self.whole.chunks(1, self.stop):
            for batch in held:
                size = batch_size(batch)
                if seen + size > self.start:
                    yield _tail(batch, max(0, self.start - seen))
                seen += size


@contextmanager
def _everything_seeded(number: int) -> Iterator[int]:
    """Seed the global generators of torch, numpy and Python, and put them back afterwards."""
    python, array = random.getstate(), numpy.random.get_state()  # noqa: NPY002 - users' transforms draw from it
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(number)
        random.seed(number)
        numpy.random.seed(number % 2**32)  # noqa: NPY002
        try:
            yield number
        finally:
            random.setstate(python)
            numpy.random.set_state(array)  # noqa: NPY002


def _generators(loader: object) -> list[torch.Generator]:
    """The generators that a loader, its sampler and its batch sampler hold."""
    holders = [loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)]
    holders.append(getattr(holders[-1], "sampler", None))
    held = [getattr(holder, "generator", None) for holder in holders]
    return [generator for generator in held if isinstance(generator, torch.Generator)]


def as_examples(data: object, name: str) -> Examples:
    """Whatever a task was given as a split, as `Examples`."""
    if isinstance(data, Examples):
        return data
    if isinstance(data, Mapping) or (isinstance(data, (tuple, list)) and len(data) < 8):
        return TensorExamples(data, name)
    if isinstance(data, Tensor):
        return TensorExamples((data,), name)
    if isinstance(data, Iterable):
        return LoaderExamples(data, name)
    raise DataError(
        f"the {name} examples must be a pair of tensors, a mapping of tensors, or a DataLoader, "
        f"got {type(data).__name__}"
    )


def batch_size(batch: Batch) -> int:
    """The number of examples in a batch."""
    return len(_tensors_of(batch)[0])


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device; itself if it is there."""
    if isinstance(batch, Mapping):
        return {n: t.to(device) if isinstance(t, Tensor) else t for n, t in batch.items()}
    return tuple(t.to(device) if isinstance(t, Tensor) else t for t in batch)


def _tensors_of(batch: Batch) -> list[Tensor]:
    values = batch.values() if isinstance(batch, Mapping) else batch
    return [value for value in values if isinstance(value, Tensor)]


def _head(batch: Batch, count: int) -> Batch:
    if isinstance(batch, Mapping):
        return {n: t[:count] if isinstance(t, Tensor) else t for n, t in batch.items()}
    return tuple(t[:count] if isinstance(t, Tensor) else t for t in batch)


def _tail(batch: Batch, start: int) -> Batch:
    if isinstance(batch, Mapping):
        return {n: t[start:] if isinstance(t, Tensor) else t for n, t in batch.items()}
    return tuple(t[start:] if isinstance(t, Tensor) else t for t in batch)


def _labelled(batch: Batch, name: str) -> Batch:
    """A loader's batch as a tuple or mapping, with its labels present."""
    if isinstance(batch, Mapping):
        return batch
    if isinstance(batch, (tuple, list)) and len(batch) >= 2:
        return tuple(batch)
    raise DataError(
        f"the {name} loader gives batches without labels: expected (inputs, targets) or a mapping, "
        f"got {type(batch).__name__}"
    )
