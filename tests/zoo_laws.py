"""What must hold of the symmetry of every network, whichever it is."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from cases import Joined
from isthmus.symmetry import Alignment, Axis, Outcome, Symmetry
from isthmus.symmetry.export import named_leaves, positional
from isthmus.weights import Weights


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class _WithoutSingle(TorchDispatchMode):
    """Takes float64 wherever an operation asks for float32."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        args, kwargs = pytree.tree_map_only(
            torch.dtype, lambda d: torch.float64 if d is torch.float32 else d, (args, kwargs or {})
        )
        return func(*args, **kwargs)


@contextmanager
def in_double() -> Iterator[None]:
    """Computes in float64 throughout, though a model casts to float32 inside, as norms and softmax do."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad(), _WithoutSingle():
            yield
    finally:
        torch.set_default_dtype(before)


def outputs_of(
    module: nn.Module, example: Any, wanted: Sequence[str | int] | None = None
) -> dict[str, Tensor]:
    """The tensors that come out, by name; those that are wanted."""
    args, kwargs = positional(example)
    with in_double():
        leaves = named_leaves(module(*args, **kwargs))
    chosen = {name: leaf.clone() for name, leaf in leaves if isinstance(leaf, Tensor)}
    return {name: chosen[name] for name in chosen if wanted is None or name in wanted}


def assert_sound(
    symmetry: Symmetry,
    module: nn.Module,
    example: Any,
    wanted: Sequence[str | int] | None = None,
    draws: int = 2,
) -> None:
    """f(g·θ, x) = f(θ, x) in float64, to 1e-9 relative."""
    module = module.double()
    example = pytree.tree_map_only(Tensor, lambda t: t.double() if t.is_floating_point() else t, example)
    weights = Weights.from_module(module)
    before = outputs_of(module, example, wanted)
    assert before
    for seed in range(draws):
        element = symmetry.random(seeded(seed))
        after = outputs_of(element.apply(weights).to_module(module), example, wanted)
        for name, output in before.items():
            assert output.dtype != torch.float32
            atol = 1e-9 * float(output.abs().max()) if output.is_floating_point() else 0
            torch.testing.assert_close(after[name], output, rtol=0, atol=atol)


def assert_nothing_pinned(symmetry: Symmetry) -> None:
    """The proof found no defect, and every control that has power changed the outputs.

    An axis without a free unit of its own follows its parents, and one that touches a single parameter has
    nothing to leave out: these cannot fire.
    """
    proof = symmetry.verification
    assert proof.passed
    assert proof.failed == ()
    still = {axis.name for axis in symmetry.axes if not axis.free}
    for control in proof.controls:
        if control.parameter and control.axis not in still:
            assert control.error > proof.tolerance, control


def assert_group(symmetry: Symmetry, weights: Weights) -> None:
    """The laws of a group and of its action."""
    g, h, k = (symmetry.random(seeded(seed)) for seed in (1, 2, 3))
    identity = symmetry.identity()
    assert identity.apply(weights).equal(weights)
    assert (g @ h).apply(weights).equal(g.apply(h.apply(weights)))
    assert same((g @ h) @ k, g @ (h @ k))
    assert same(g @ g.inverse(), identity)
    assert same(g.inverse() @ g, identity)
    assert same((g @ h).inverse(), h.inverse() @ g.inverse())
    assert g.apply(weights).norm() == pytest.approx(weights.norm(), rel=1e-12)


def same(first: Alignment, second: Alignment) -> bool:
    return all(torch.equal(p, second.permutations[name]) for name, p in first.permutations.items())


def assert_saved(symmetry: Symmetry, weights: Weights) -> None:
    """A symmetry and an alignment load back equal."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        symmetry.save(path / "symmetry.json")
        assert Symmetry.load(path / "symmetry.json") == symmetry
        element = replace(
            symmetry.random(seeded(4)), objective=1 / 3, outcome=Outcome.CONVERGED, history=(0.1, 1 / 3)
        )
        element.save(path / "alignment.safetensors")
        loaded = Alignment.load(path / "alignment.safetensors")
    assert loaded == element
    assert loaded != replace(element, history=())
    assert loaded.apply(weights).equal(element.apply(weights))


def assert_joined(symmetry: Symmetry, joined: Joined) -> None:
    """Some axis has this size, its parent that one, and carries all these places, itself or below."""
    wanted = set(joined.places.split())
    named = {axis.name: axis for axis in symmetry.axes}
    carried = _carried(symmetry.axes)
    known = {f"{name}[{dim}]" for name, shape in _shapes(symmetry).items() for dim in range(len(shape))}
    assert wanted <= known, f"no such places: {wanted - known}"
    fitting = [
        axis
        for axis in symmetry.axes
        if axis.size == joined.size
        and wanted <= carried[axis.name]
        and joined.within in (None, *([named[name].size for name, _ in axis.parents] or [0]))
    ]
    assert fitting, f"no axis of {joined.size} units joins {sorted(wanted)}; there are {symmetry.axes}"


def _carried(axes: Sequence[Axis]) -> dict[str, set[str]]:
    """For each axis the places that it and the axes below it lie on."""
    carried = {axis.name: {f"{p.parameter}[{p.dim}]" for p in axis.places} for axis in axes}
    for axis in reversed(axes):
        for name, _ in axis.parents:
            carried[name] |= carried[axis.name]
    return carried


def _shapes(symmetry: Symmetry) -> dict[str, tuple[int, ...]]:
    return dict(zip(symmetry.layout.names, symmetry.layout.shapes, strict=True)) | dict(symmetry.buffers)
