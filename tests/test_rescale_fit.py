"""The nearest rescaling and the balanced one: planted elements are found, the norm is least, orbits agree."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from cases import CASES, ResNet
from isthmus.symmetry.rescale import Ending, Rescaling, discover_rescalings
from isthmus.symmetry.rescale.fitting import best_step
from isthmus.weights import Weights


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def case(name: str, kind: str) -> tuple[Rescaling, Weights]:
    module = CASES[name].module()
    group = discover_rescalings(module, CASES[name].example(), kind=kind, verify=False)
    return group, Weights.from_module(module.double())


FITTED = ("mlp", "vgg", "attention", "inverted_bottleneck", "conv1d", "tied_parameter", "dense")


@pytest.mark.parametrize("name", FITTED)
def test_a_planted_scaling_is_found(name):
    group, weights = case(name, "positive")
    planted = group.random(seeded(1))
    found = group.nearest(weights, planted.inverse().apply(weights))
    torch.testing.assert_close(found.coordinates, planted.coordinates, rtol=0, atol=1e-5)
    assert found.objective < 1e-10 * weights.norm() ** 2
    assert found.ending is Ending.CONVERGED


@pytest.mark.parametrize("name", ["vgg", "attention", "tied_autoencoder", "conv1d"])
def test_planted_signs_are_found(name):
    group, weights = case(name, "sign")
    planted = group.random(seeded(1))
    found = group.nearest(weights, planted.inverse().apply(weights))
    assert torch.equal(found.coordinates, planted.coordinates)
    assert found.objective == 0


@pytest.mark.parametrize("kind", ["positive", "sign"])
@pytest.mark.parametrize("name", ["attention", "group_norm"])
def test_between_two_networks_the_distance_never_rises(name, kind):
    group, a = case(name, kind)
    b = Weights.from_module(CASES[name].module(seed=7).double())
    found = group.nearest(a, b)
    distance = a.distance(found.apply(b))
    assert found.objective == pytest.approx(distance**2, rel=1e-9)
    assert distance <= a.distance(b)
    for number in range(group.dimension):
        for step in (0.05, -0.05) if kind == "positive" else (1,):
            nudge = torch.zeros(group.dimension)
            nudge[number] = step
            moved = (group.element(nudge) @ found).apply(b)
            assert a.distance(moved) >= distance - 1e-9


@pytest.mark.parametrize("name", FITTED)
def test_balancing_gives_every_point_of_an_orbit_the_same_weights_of_least_norm(name):
    group, weights = case(name, "positive")
    first = group.balanced(weights).apply(weights)
    moved = group.random(seeded(2)).apply(weights)
    second = group.balanced(moved).apply(moved)
    torch.testing.assert_close(first.vector, second.vector, rtol=0, atol=1e-5 * float(weights.norm()))
    assert first.norm() <= min(weights.norm(), moved.norm())
    for seed in range(20):
        nearby = group.element(0.1 * group.random(seeded(seed)).coordinates)
        assert nearby.apply(first).norm() >= first.norm() * (1 - 1e-12)


def test_two_layers_are_balanced_when_incoming_and_outgoing_norms_agree():
    """The closed form: w and b of a unit on one side, its outgoing weights on the other."""
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    weights = Weights.from_module(module)
    group = discover_rescalings(module, torch.zeros(1, 3).double(), verify=False)
    result = group.balanced(weights).apply(weights)
    incoming = result["0.weight"].square().sum(1) + result["0.bias"].square()
    torch.testing.assert_close(incoming, result["2.weight"].square().sum(0), rtol=1e-6, atol=0)


def test_what_has_no_least_norm_stays():
    """A unit without outgoing weights, and a direction that weight norm makes scale-free."""
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    with torch.no_grad():
        module[2].weight[:, 1] = 0
    weights = Weights.from_module(module)
    group = discover_rescalings(module, torch.zeros(1, 3).double(), verify=False)
    balanced = group.balanced(weights)
    assert float(balanced.coordinates[1]) == 0.0
    assert int((balanced.coordinates != 0).sum()) == 3
    normed = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.Linear(4, 2)).double()
    group = discover_rescalings(normed, torch.zeros(1, 3).double(), verify=False)
    weights = Weights.from_module(normed)
    after = group.balanced(weights).apply(weights)
    name = "0.parametrizations.weight.original1"
    assert torch.equal(after[name], weights[name])


def test_one_step_is_the_minimum_of_a_fine_grid():
    generator = np.random.default_rng(0)
    for _ in range(50):
        size = int(generator.integers(1, 9))
        a, b = generator.normal(size=(2, size))
        power = generator.choice([-2, -1, 1, 2], size)
        grid = np.linspace(-6, 6, 4001)
        values = ((a[:, None] - np.exp(power[:, None] * grid) * b[:, None]) ** 2).sum(0)
        step = best_step(a, b, power, 0.0)
        reached = ((a - np.exp(power * (step or 0.0)) * b) ** 2).sum()
        start = ((a - b) ** 2).sum()
        inside = 0 < values.argmin() < len(grid) - 1
        assert reached <= start + 1e-12
        if inside:
            assert reached <= values.min() + 1e-3 * start


def test_a_residual_network_is_fitted_in_seconds():
    module = ResNet(8, 2, "B").eval().double()
    weights = Weights.from_module(module)
    group = discover_rescalings(module, torch.zeros(1, 3, 8, 8).double(), verify=False)
    planted = group.random(seeded(1))
    found = group.nearest(weights, planted.inverse().apply(weights))
    torch.testing.assert_close(found.coordinates, planted.coordinates, rtol=0, atol=1e-5)
