"""Numerical proof that group elements leave a network's function as it is, with a control.

A copy of the module is put into float64; parameters that are constant (zero-initialised, norm scales) and
running statistics are drawn afresh, since a symmetric initialisation hides a broken symmetry. Then the axes
are moved and the outputs are compared, for several group elements (see `elements`): one random element proves
little, as it leaves an axis of two units where it is every other time. The control moves one axis, leaves one
touched parameter out, and expects the outputs to change: without it a parameter that the output does not
depend on would prove anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from isthmus.errors import SymmetryError
from isthmus.symmetry import action
from isthmus.symmetry.action import Axis
from isthmus.symmetry.experts import loop_over_experts
from isthmus.symmetry.export import (
    Inputs,
    evaluation_copy,
    named_leaves,
    positional,
    undisturbed_generators,
)

TOLERANCE = 1e-9
SINGLE_TOLERANCE = 1e-5
_NARROW = (torch.float32, torch.float16, torch.bfloat16, torch.complex64)
_WIDE = {torch.complex64: torch.complex128} | dict.fromkeys(_NARROW[:3], torch.float64)
_FEW = 64
_STATISTICS = ("running_mean", "running_var")
_WHOLE = 1 << 62
_SMALL = 4


@dataclass(frozen=True)
class Control:
    """One axis moved with one parameter left out.

    Attributes:
        axis: the axis.
        parameter: the parameter that was left as it was; empty if the axis touches fewer than two.
        error: the relative change of the outputs, which should exceed the tolerance by far.
    """

    axis: str
    parameter: str
    error: float


@dataclass(frozen=True)
class Verification:
    """What the numerical check found.

    Attributes:
        error: the relative change of the outputs, max |f(g·θ, x) - f(θ, x)| / max |f(θ, x)|, the largest one
            over the group elements g that were tried.
        tolerance: what was allowed: 1e-9 in float64, 1e-5 if the model computes in float32 inside.
        outputs: the outputs that were compared.
        controls: one for each axis; `discover` takes four at most (two for over 16 million parameters),
            spread evenly over the axes.
        failed: axes that had to be pinned because they changed the outputs: a defect of a rule.
        unmoved: axes that none of the tried elements moved: nothing was proved of them.
    """

    error: float
    tolerance: float
    outputs: tuple[str, ...]
    controls: tuple[Control, ...] = ()
    failed: tuple[str, ...] = ()
    unmoved: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the outputs stayed, every axis was moved, and none had to be pinned."""
        return self.error <= self.tolerance and not self.failed and not self.unmoved

    @property
    def powerless(self) -> tuple[str, ...]:
        """Axes whose control did not change the outputs: for them the check proves little."""
        return tuple(control.axis for control in self.controls if not control.error > self.tolerance)


class Probe:
    """A float64 copy of a module whose outputs are compared before and after its units are moved."""

    def __init__(self, module: nn.Module, inputs: Inputs, outputs: Sequence[str] | None, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.twin = loop_over_experts(evaluation_copy(module).double())
        self.tensors = dict(self.twin.named_parameters(remove_duplicate=False)) | dict(
            self.twin.named_buffers(remove_duplicate=False)
        )
        self._buffers = [
            (owner._buffers, name, buffer)
            for owner in self.twin.modules()
            for name, buffer in owner._buffers.items()
        ]
        self._redraw()
        # A parameter moves by pointing to reordered memory; only buffers can be written to by the module.
        self.originals = {name: tensor.detach() for name, tensor in self.tensors.items()}
        self._written = {name: self.originals[name].clone() for name, _ in self.twin.named_buffers()}
        arguments = positional(inputs)
        self.args, self.kwargs = pytree.tree_map_only(Tensor, _widened, arguments)
        self.chosen = outputs
        try:
            self.reference = self._outputs()
        except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
            raise SymmetryError(
                f"{type(module).__name__} does not run in float64, so that the symmetry cannot be verified: "
                f"{error}; pass verify=False to go on without proof"
            ) from error
        single = any(out.dtype in _NARROW for out in self.reference.values())
        self.tolerance = SINGLE_TOLERANCE if single else TOLERANCE

    def error(
        self, axes: Sequence[Axis], permutations: Mapping[str, Tensor], left_out: str | None = None
    ) -> float:
        """The relative change of the outputs under these permutations, one parameter left out or none."""
        sizes = {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}
        indices = action.gathers(axes, permutations, sizes)
        touched = {name for name, _, _ in indices} - {left_out}
        moved = {}
        for name in touched:
            moves = {(dim, blocks): i for (n, dim, blocks), i in indices.items() if n == name}
            moved[name] = action.permute(self.originals[name], moves)
        return self.change_with(moved)

    def change_with(self, tensors: Mapping[str, Tensor]) -> float:
        """The relative change of the outputs with other parameters and buffers, by name."""
        self._restore()
        for name, tensor in tensors.items():
            self.tensors[name].data = tensor
        try:
            outputs = self._outputs()
        finally:
            for name in tensors:
                self.tensors[name].data = self.originals[name]
        changes = (_change(self.reference[name], out) for name, out in outputs.items())
        return reduce(larger, changes, 0.0)

    def control(self, axes: Sequence[Axis], axis: Axis) -> Control:
        """Move one axis, with what follows it, and leave its largest parameter out."""
        permutations = turned(axes, axis)
        sizes = {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}
        touched = {name for name, _, _ in action.gathers(axes, permutations, sizes)}
        if len(touched) < 2:
            return Control(axis.name, "", 0.0)
        largest = max(sorted(touched), key=lambda name: self.tensors[name].numel())
        return Control(axis.name, largest, self.error(axes, permutations, largest))

    def _restore(self) -> None:
        """Put the buffers back as they were: a forward pass may change or replace them."""
        for owner, key, buffer in self._buffers:
            owner[key] = buffer
        for name, value in self._written.items():
            if not torch.equal(self.originals[name], value):  # an expanded buffer cannot be written to
                self.originals[name].copy_(value)

    def _outputs(self) -> dict[str, Tensor]:
        """The compared outputs by name; caches that live from training to evaluation are dropped first."""
        self.twin.train()
        self.twin.eval()
        with torch.no_grad(), undisturbed_generators(), _double_by_default(), _Widening():  # type: ignore[no-untyped-call]
            leaves = named_leaves(self.twin(*self.args, **self.kwargs))
        tensors = {name: leaf for name, leaf in leaves if isinstance(leaf, Tensor)}
        return {n: t.clone() for n, t in tensors.items() if self.chosen is None or n in self.chosen}

    def _redraw(self) -> None:
        """Draw constant parameters and running statistics afresh."""
        with torch.no_grad():
            for name, tensor in self.tensors.items():
                if not tensor.is_floating_point() or not tensor.numel():
                    continue
                statistic = name.rpartition(".")[2] in _STATISTICS
                if not statistic and not isinstance(tensor, nn.Parameter):
                    continue
                first = float(tensor.reshape(-1)[0])
                if not _all_equal(tensor, first) or (tensor.numel() == 1 and first and not statistic):
                    continue
                noise = torch.rand(tensor.shape, generator=self.generator, dtype=torch.float64)
                tensor.copy_((noise + 0.5) * first if first else noise - 0.5)


def verify(
    probe: Probe, axes: Sequence[Axis], failed: Sequence[str] = (), controls: int | None = None
) -> Verification:
    """Move all axes and compare; then one control an axis, or at most this many."""
    error = 0.0
    waiting = {axis.name: torch.arange(axis.size) for axis in axes}
    for element in elements(axes, probe.generator) if axes else ():
        waiting = {name: still for name, still in waiting.items() if torch.equal(element[name], still)}
        error = larger(error, probe.error(axes, element))
    free = [axis for axis in axes if axis.free]
    count = len(free) if controls is None else min(len(free), controls)
    spread = [free[number * len(free) // count] for number in range(count)]
    fired = tuple(probe.control(axes, axis) for axis in spread)
    outputs = tuple(probe.reference)
    return Verification(error, probe.tolerance, outputs, fired, tuple(failed), tuple(waiting))


def failing(probe: Probe, axes: Sequence[Axis]) -> list[str]:
    """The axes that change the outputs when they move alone, with all that follows from them."""
    wrong = [
        axis.name
        for axis in axes
        if any(
            not probe.error(axes, element) <= probe.tolerance
            for element in elements(axes, probe.generator, axis.name)
        )
    ]
    return wrong or [axis.name for axis in axes]


def elements(
    axes: Sequence[Axis], generator: torch.Generator, alone: str | None = None
) -> Iterator[dict[str, Tensor]]:
    """A few group elements that tell a group which is too large.

    In the first one, two units of every cell change places. In the others the units of cells turn, in an
    order of their own, chosen at random: so each cell moves, by a transposition and by a full cycle. These
    tell apart two cells that may only move together, unless they are small. Therefore the cells of at most
    four units are numbered in binary, and for every digit those whose digit is 1 turn, while all large cells
    do: so of any two small cells the one moves without the other. If there are none, all cells turn once.

    Args:
        axes: all axes, parents first.
        generator: chooses the two units and the orders.
        alone: the axis that moves; what lies below it follows, all others stay. None for all.
    """
    cells = [axis.cells.bincount().tolist() for axis in axes if alone in (None, axis.name)]
    sizes = [size for sizes in cells for size in sizes if size > 1]
    yield _element(axes, generator, [2] * len(sizes), alone)
    small = list(accumulate(size <= _SMALL for size in sizes))
    if not small or not small[-1]:
        yield _element(axes, generator, [_WHOLE] * len(sizes), alone)
        return
    for digit in range(small[-1].bit_length()):
        turning = [
            _WHOLE if size > _SMALL or number >> digit & 1 else 1
            for size, number in zip(sizes, small, strict=True)
        ]
        yield _element(axes, generator, turning, alone)


def _element(
    axes: Sequence[Axis], generator: torch.Generator, cycles: Sequence[int], alone: str | None
) -> dict[str, Tensor]:
    """The element that turns this many units, chosen at random, in each cell of more than one unit."""
    lengths = iter(cycles)
    chosen: dict[str, Tensor] = {}
    for axis in axes:
        permutation = torch.empty(axis.size, dtype=torch.int64)
        for units, source in action.paired_cells(axis, chosen):
            if units.numel() > 1 and alone in (None, axis.name):
                turning = torch.randperm(source.numel(), generator=generator)[: next(lengths)]
                source = source.clone()
                source[turning] = source[turning.roll(1)]
            permutation[units] = source
        chosen[axis.name] = permutation
    return chosen


def turned(axes: Sequence[Axis], axis: Axis) -> dict[str, Tensor]:
    """The permutations that turn every cell of one axis by one step; other axes follow or stay."""
    step = torch.arange(axis.size)
    for units in action.members_of(axis):
        step[units] = units.roll(1)
    still = {each.name: torch.arange(each.size) for each in axes} | {axis.name: step}
    return action.follow(axes, still, axis.name)


def larger(first: float, second: float) -> float:
    """The larger one of two errors, where not being a number counts as the largest."""
    return first if first >= second or math.isnan(first) else second


class _Widening(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Turns every cast to a narrower floating-point type inside a module into one to float64.

    Models that compute their norms or their softmax in float32 can so be proved at float64's tolerance.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        if func is torch.ops.aten.view.dtype:  # bits read as another type, not a cast
            return func(*args, **(kwargs or {}))
        return func(*map(_wider, args), **{key: _wider(value) for key, value in (kwargs or {}).items()})


def _wider(value: Any) -> Any:
    """An argument; if it is a narrow floating-point type, the wide one."""
    return _WIDE.get(value, value) if isinstance(value, torch.dtype) else value


@contextmanager
def _double_by_default() -> Iterator[None]:
    """New floating-point tensors are of float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _all_equal(tensor: Tensor, value: float) -> bool:
    """Whether all elements have this value; the first ones tell it in most cases."""
    few = tensor.reshape(-1)[:_FEW]
    return bool((few == value).all()) and bool((tensor == value).all())


def _widened(tensor: Tensor) -> Tensor:
    return tensor.detach().double() if tensor.is_floating_point() else tensor.detach().clone()


def _change(before: Tensor, after: Tensor) -> float:
    """The change max |after - before| / max |before|; infinite if only one of them is finite."""
    if not before.numel():
        return 0.0
    if not before.is_floating_point() and not before.is_complex():
        return 0.0 if torch.equal(before, after) else float("inf")
    finite = before.isfinite() & after.isfinite()
    if not torch.equal(before.isfinite(), after.isfinite()):
        return float("inf")
    scale = float(before[finite].abs().max()) if bool(finite.any()) else 1.0
    gap = float((after - before)[finite].abs().max()) if bool(finite.any()) else 0.0
    return gap / scale if scale else gap
