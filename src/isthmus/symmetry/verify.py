"""Numerical proof that group elements leave a network's function as it is, with a control.

A copy of the module is put into float64; parameters that are constant (zero-initialised, norm scales) and
running statistics are drawn afresh, since a symmetric initialisation hides a broken symmetry. Then every
axis is moved at once and the outputs are compared. The control moves one axis, leaves one touched parameter
out, and expects the outputs to change: without it a parameter that the output does not depend on would prove
anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from isthmus.errors import SymmetryError
from isthmus.symmetry import action
from isthmus.symmetry.action import Axis
from isthmus.symmetry.export import Inputs, evaluation_copy, named_leaves, positional

TOLERANCE = 1e-9
SINGLE_TOLERANCE = 1e-5
_STATISTICS = ("running_mean", "running_var")


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
        error: the relative change of the outputs, max |f(g·θ, x) - f(θ, x)| / max |f(θ, x)|, all axes moved.
        tolerance: what was allowed: 1e-9 in float64, 1e-5 if the model computes in float32 inside.
        outputs: the outputs that were compared.
        controls: one for each axis; `discover` takes at most eight, spread evenly over the axes.
        failed: axes that had to be pinned because they changed the outputs: a defect of a rule.
    """

    error: float
    tolerance: float
    outputs: tuple[str, ...]
    controls: tuple[Control, ...] = ()
    failed: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the outputs stayed and no axis had to be pinned."""
        return self.error <= self.tolerance and not self.failed

    @property
    def powerless(self) -> tuple[str, ...]:
        """Axes whose control did not change the outputs: for them the check proves little."""
        return tuple(control.axis for control in self.controls if not control.error > self.tolerance)


class Probe:
    """A float64 copy of a module whose outputs are compared before and after its units are moved."""

    def __init__(self, module: nn.Module, inputs: Inputs, outputs: Sequence[str] | None, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.twin = evaluation_copy(module).double()
        self.tensors = dict(self.twin.named_parameters(remove_duplicate=False)) | dict(
            self.twin.named_buffers(remove_duplicate=False)
        )
        self._redraw()
        self.originals = {name: tensor.detach().clone() for name, tensor in self.tensors.items()}
        arguments = positional(inputs)
        self.args, self.kwargs = pytree.tree_map_only(Tensor, _widened, arguments)
        self.chosen = outputs
        try:
            self.reference = self._outputs()
        except (RuntimeError, TypeError, ValueError) as error:
            raise SymmetryError(
                f"{type(module).__name__} does not run in float64, so that the symmetry cannot be verified: "
                f"{error}; pass verify=False to go on without proof"
            ) from error
        single = any(out.dtype == torch.float32 for out in self.reference.values())
        self.tolerance = SINGLE_TOLERANCE if single else TOLERANCE

    def error(
        self, axes: Sequence[Axis], permutations: Mapping[str, Tensor], left_out: str | None = None
    ) -> float:
        """The relative change of the outputs under these permutations, one parameter left out or none."""
        sizes = {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}
        indices = action.gathers(axes, permutations, sizes)
        touched = {name for name, _, _ in indices} - {left_out}
        with torch.no_grad():
            for name in touched:
                moves = {(dim, blocks): i for (n, dim, blocks), i in indices.items() if n == name}
                self.tensors[name].copy_(action.permute(self.originals[name], moves))
            outputs = self._outputs()
            for name in touched:
                self.tensors[name].copy_(self.originals[name])
        return max((_change(self.reference[name], out) for name, out in outputs.items()), default=0.0)

    def control(self, axes: Sequence[Axis], axis: Axis) -> Control:
        """Move one axis, with what follows it, and leave its largest parameter out."""
        permutations = turned(axes, axis)
        sizes = {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}
        touched = {name for name, _, _ in action.gathers(axes, permutations, sizes)}
        if len(touched) < 2:
            return Control(axis.name, "", 0.0)
        largest = max(sorted(touched), key=lambda name: self.tensors[name].numel())
        return Control(axis.name, largest, self.error(axes, permutations, largest))

    def _outputs(self) -> dict[str, Tensor]:
        """The compared outputs by name; caches that live from training to evaluation are dropped first."""
        self.twin.train()
        self.twin.eval()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
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
                first = float(tensor.flatten()[0])
                if not bool((tensor == first).all()) or (tensor.numel() == 1 and first and not statistic):
                    continue
                noise = torch.rand(tensor.shape, generator=self.generator, dtype=torch.float64)
                tensor.copy_((noise + 0.5) * first if first else noise - 0.5)


def verify(
    probe: Probe, axes: Sequence[Axis], failed: Sequence[str] = (), controls: int | None = None
) -> Verification:
    """Move all axes by a random element and compare; then one control an axis, or at most this many."""
    error = probe.error(axes, action.random(axes, probe.generator)) if axes else 0.0
    count = len(axes) if controls is None else min(len(axes), controls)
    spread = [axes[number * len(axes) // count] for number in range(count)]
    fired = tuple(probe.control(axes, axis) for axis in spread)
    return Verification(error, probe.tolerance, tuple(probe.reference), fired, tuple(failed))


def failing(probe: Probe, axes: Sequence[Axis]) -> list[str]:
    """The axes that change the outputs when they move alone, with all that follows from them."""
    wrong = [axis.name for axis in axes if not probe.error(axes, turned(axes, axis)) <= probe.tolerance]
    return wrong or [axis.name for axis in axes]


def turned(axes: Sequence[Axis], axis: Axis) -> dict[str, Tensor]:
    """The permutations that turn every cell of one axis by one step; other axes follow or stay."""
    step = torch.arange(axis.size)
    for units in action.members_of(axis):
        step[units] = units.roll(1)
    still = {each.name: torch.arange(each.size) for each in axes} | {axis.name: step}
    return action.follow(axes, still, axis.name)


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
