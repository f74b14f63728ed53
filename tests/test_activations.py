"""Where hidden units appear in activations: moving the units moves their rows, on the whole zoo."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import cases
from isthmus.errors import SymmetryError
from isthmus.stats import CrossMoments
from isthmus.symmetry import discover
from isthmus.symmetry.activations import Lane, trace_activations
from isthmus.symmetry.experts import loop_over_experts
from isthmus.weights import Weights
from test_zoo import ZOO
from zoo_laws import in_double, outputs_of, seeded

ALL = {f"{name}-of-cases": case for name, case in cases.CASES.items()} | ZOO


@pytest.mark.parametrize("name", ALL)
def test_moving_units_moves_their_rows(name):
    case = ALL[name]
    if case.needs:
        pytest.importorskip(case.needs)
    module = loop_over_experts(case.module().eval().double())  # grouped products know no float64
    example = pytree.tree_map_only(
        torch.Tensor, lambda t: t.double() if t.is_floating_point() else t, case.example()
    )
    symmetry = discover(module, example, case.outputs, verify=False)
    traced = trace_activations(module, example, symmetry, case.outputs)
    weights = Weights.from_module(module)
    element = symmetry.random(seeded(3))
    pairs = {}

    def look(node, tensors):
        for site in traced.sites:
            if site.node == node:
                pairs[node, site.axis, site.dims] = (site, *[site.rows(t) for t in tensors])

    lanes = [Lane(weights, example), Lane(element.apply(weights), example)]
    with in_double():
        found = traced.run(lanes, look, frozenset(site.node for site in traced.sites))
    expected = outputs_of(module, example, case.outputs)
    for name_, output in expected.items():
        if output.is_floating_point():
            scale = float(output.abs().max())
            torch.testing.assert_close(found[0][name_], output, rtol=0, atol=1e-9 * scale)
            torch.testing.assert_close(found[1][name_], output, rtol=0, atol=1e-9 * scale)
    for site, rows, moved in pairs.values():
        if not torch.isfinite(rows).all():
            continue
        atol = 1e-9 * max(float(rows.abs().max()), 1e-30)
        torch.testing.assert_close(moved, rows[element.permutations[site.axis]], rtol=0, atol=atol)
    # Every axis that chooses by itself is seen somewhere, itself or in what lies below it.
    seen = {site.axis for site in traced.sites}
    for axis in reversed(symmetry.axes):
        if axis.name in seen:
            seen |= {parent for parent, _ in axis.parents}
    assert {axis.name for axis in symmetry.axes if axis.free} <= seen


def test_sites_tell_what_becomes_of_their_units():
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    x = torch.zeros(4, 3)
    first, second = trace_activations(net, x, discover(net, x)).sites
    assert (first.squashed, first.read, second.squashed, second.read) == (True, False, False, True)


def test_frozen_units_have_no_sites():
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    x = torch.zeros(4, 3)
    assert not trace_activations(net, x, discover(net, x, freeze=["0.weight"])).sites


def test_writers_name_the_layers_and_their_biases():
    net = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))
    x = torch.zeros(2, 1, 8, 8)
    conv, norm = trace_activations(net, x, discover(net, x)).writers
    assert (conv.operation, conv.weight, conv.bias, conv.normed) == ("conv2d", "0.weight", None, True)
    assert (norm.operation, norm.weight, norm.bias, norm.normed) == (
        "batch_norm",
        "1.weight",
        "1.bias",
        False,
    )
    assert conv.whole
    assert not conv.shared


def test_weights_of_another_network_are_refused():
    net, other = nn.Linear(3, 2), nn.Sequential(nn.Linear(3, 2))
    x = torch.zeros(2, 3)
    traced = trace_activations(net, x, discover(net, x))
    with pytest.raises(SymmetryError, match="not of the network"):
        traced.run([Lane(Weights.from_module(other), x)])


def test_a_replaced_output_is_what_later_operations_read():
    net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2, bias=False))
    x = torch.ones(4, 3)
    traced = trace_activations(net, x, discover(net, x))
    node = next(site.node for site in traced.sites if site.squashed)
    lane = Lane(Weights.from_module(net), x)
    (out,) = traced.run([lane], lambda _, tensors: [torch.zeros_like(t) for t in tensors], frozenset([node]))
    assert torch.equal(out["output"], torch.zeros(4, 2))


# -- moments of pairs -----------------------------------------------------------------------------


def test_joint_moments_merge_over_any_division():
    first, second = (torch.randn(n, 60, generator=seeded(n), dtype=torch.float64) + 3 for n in (4, 7))
    whole = CrossMoments.of_rows(first, second)
    pieces = [
        CrossMoments.of_rows(first[:, s], second[:, s]) for s in (slice(0, 1), slice(1, 33), slice(33, 60))
    ]
    merged = pieces[0].merge(pieces[1]).merge(pieces[2])
    together = torch.cat([first, second])
    for found in (whole, merged):
        torch.testing.assert_close(found.covariance, torch.cov(together)[:4, 4:])
        torch.testing.assert_close(found.correlation, torch.corrcoef(together)[:4, 4:])
        torch.testing.assert_close(found.product, first @ second.T / 60)


def test_a_unit_that_never_varies_correlates_with_nothing():
    rows = torch.stack([torch.zeros(9), torch.arange(9.0)])
    expected = torch.tensor([[0.0, 0], [0, 1]], dtype=torch.float64)
    torch.testing.assert_close(CrossMoments.of_rows(rows, rows).correlation, expected)


@pytest.mark.parametrize("equation", ["bi,oi->bo", "...i,oi->...o", "bi,oi"])
def test_an_einsum_sums_over_what_its_notation_says(equation):
    class Einsum(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 5), nn.Parameter(torch.randn(2, 5))

        def forward(self, x):
            return torch.einsum(equation, self.first(x).relu(), self.second)

    net, x = Einsum(), torch.zeros(4, 3)
    sites = trace_activations(net, x, discover(net, x)).sites
    assert [(site.dims, site.read) for site in sites if site.read] == [((1,), True)]
