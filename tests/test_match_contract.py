"""What every matcher promises, on an MLP, a network with batch norm, a residual one and a transformer.

A new matcher is one more line of `MATCHERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cases import Basic, Calls
from isthmus.experiments.train import train
from isthmus.landscape import Landscape, Recipe, Task
from isthmus.match import AbstractMatcher, WeightMatcher
from isthmus.match.activation import ActivationMatcher
from isthmus.match.annealing import AnnealingMatcher
from isthmus.match.learned import LearnedMatcher
from isthmus.match.sinkhorn import SinkhornMatcher
from isthmus.match.straight_through import StraightThroughMatcher
from isthmus.symmetry import Alignment, Outcome, Symmetry, discover
from isthmus.weights import Weights
from test_match_weight import noisy, seeded

Build = Callable[[Symmetry, Landscape], AbstractMatcher]

SHORT = {"steps": 12, "evaluate_every": 4}

MATCHERS: dict[str, Build] = {
    "weight": lambda symmetry, _: WeightMatcher(symmetry),
    "activation": lambda symmetry, land: ActivationMatcher(symmetry, land, examples=512),
    "straight_through": lambda symmetry, land: StraightThroughMatcher(symmetry, land, **SHORT),
    "straight_through_random": lambda symmetry, land: StraightThroughMatcher(
        symmetry, land, position="random", **SHORT
    ),
    "learned": lambda symmetry, land: LearnedMatcher(symmetry, land, **SHORT),
    "sinkhorn": lambda symmetry, land: SinkhornMatcher(symmetry, land, **SHORT),
    "sinkhorn_distance": lambda symmetry, _: SinkhornMatcher(symmetry, **SHORT),
    # By default annealing starts from the identity, as published, and so recovers nothing in a few steps.
    "annealing": lambda symmetry, land: AnnealingMatcher(symmetry, land, start="weights", **SHORT),
}


# -- networks -------------------------------------------------------------------------------------


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, padding=1),
        nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3),
    )  # fmt: skip


def residual() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), Basic(6, 6, 1, "B"),
        Basic(6, 8, 2, "B"), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


def transformer() -> nn.Module:
    """One block with three heads of four units, layer norms and a gated MLP."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.embed(x.reshape(-1, 4, 3))
        y = m.first(x)
        q, k, v = (part(y).unflatten(-1, (3, 4)).transpose(1, 2) for part in (m.q, m.k, m.v))
        x = x + m.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        y = m.second(x)
        x = x + m.down(F.silu(m.gate(y)) * m.up(y))
        return m.head(x.flatten(1))

    return Calls(
        forward,
        embed=nn.Linear(3, 6), first=nn.LayerNorm(6), q=nn.Linear(6, 12), k=nn.Linear(6, 12),
        v=nn.Linear(6, 12), o=nn.Linear(12, 6), second=nn.LayerNorm(6), gate=nn.Linear(6, 8),
        up=nn.Linear(6, 8), down=nn.Linear(8, 6), head=nn.Linear(24, 3),
    )  # fmt: skip


NETWORKS = {"mlp": mlp, "convolutional": convolutional, "residual": residual, "transformer": transformer}


def examples(count: int, seed: int, image: bool) -> tuple[Tensor, Tensor]:
    """Three noisy patterns of twelve numbers, or the same as images of 3 × 4."""
    generator = seeded(seed)
    target = torch.randint(3, (count,), generator=generator)
    centres = 1.5 * torch.randn(3, 12, generator=seeded(99))
    inputs = centres[target] + torch.randn(count, 12, generator=generator)
    return (inputs.view(-1, 1, 3, 4) if image else inputs), target


@dataclass(frozen=True)
class Trained:
    """A task, its group, and two models that were trained apart."""

    landscape: Landscape
    symmetry: Symmetry
    a: Weights
    b: Weights

    def planted(self) -> tuple[Alignment, Weights]:
        """A group element, and what it makes of A with a little noise."""
        element = self.symmetry.random(seeded(4))
        return element, element.apply(noisy(self.a, 0.02, 5))


@cache
def trained(name: str) -> Trained:
    image = name in ("convolutional", "residual")
    recipe = Recipe(epochs=8, batch=32, rate=0.05)
    task = Task(
        model=NETWORKS[name],
        train=examples(192, 1, image),
        test=examples(96, 2, image),
        recipe=recipe,
        name=name,
    )
    symmetry = discover(task.traceable, task.example)
    assert symmetry.log2_order > 0
    return Trained(Landscape(task), symmetry, train(task, 1), train(task, 2))


each = pytest.mark.parametrize("network", NETWORKS)
every = pytest.mark.parametrize("matcher", MATCHERS)


@cache
def matched(matcher: str, network: str) -> Alignment:
    """Two models that were trained apart."""
    case = trained(network)
    return MATCHERS[matcher](case.symmetry, case.landscape).match(case.a, case.b)


def same(first: Alignment, second: Alignment) -> bool:
    return all(torch.equal(p, second.permutations[name]) for name, p in first.permutations.items())


# -- the contract ---------------------------------------------------------------------------------


@each
@every
def test_the_result_is_a_group_element(matcher, network):
    case, alignment = trained(network), matched(matcher, network)
    assert alignment.symmetry == case.symmetry
    for axis in case.symmetry.axes:
        p = alignment.permutations[axis.name]
        assert sorted(p.tolist()) == list(range(axis.size))
        for name, above in axis.parents:
            assert torch.equal(above[p], alignment.permutations[name][above])
    assert same(alignment @ alignment.inverse(), case.symmetry.identity())
    assert alignment.inverse().apply(alignment.apply(case.b)).equal(case.b)


@each
@every
def test_the_function_does_not_change(matcher, network):
    case, alignment = trained(network), matched(matcher, network)
    landscape = Landscape(case.landscape.task, batchnorm="keep")
    before, after = landscape.evaluate([case.b, alignment.apply(case.b)], "test").loss
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


@each
@every
def test_a_planted_element_is_recovered(matcher, network):
    case = trained(network)
    planted, b = case.planted()
    alignment = MATCHERS[matcher](case.symmetry, case.landscape).match(case.a, b)
    assert same(alignment, planted.inverse())


@each
@every
def test_equal_models_give_the_identity(matcher, network):
    case = trained(network)
    alignment = MATCHERS[matcher](case.symmetry, case.landscape).match(case.a, case.a)
    assert same(alignment, case.symmetry.identity())
    assert alignment.outcome in (Outcome.CONVERGED, Outcome.ASSIGNED)


@each
@every
def test_the_objective_is_told_and_is_no_lower_than_at_the_start(matcher, network):
    alignment = matched(matcher, network)
    assert alignment.objective is not None
    assert alignment.history
    assert alignment.objective >= max(alignment.history)
    assert alignment.outcome in (Outcome.CONVERGED, Outcome.ASSIGNED, Outcome.BUDGET, Outcome.SWEEP_LIMIT)


@each
@every
def test_the_same_seed_gives_the_same_result(matcher, network):
    case = trained(network)
    before = torch.get_rng_state()
    again = MATCHERS[matcher](case.symmetry, case.landscape).match(case.a, case.b)
    assert again == matched(matcher, network)
    assert torch.equal(torch.get_rng_state(), before)


@each
@every
def test_nothing_that_was_given_is_changed(matcher, network):
    case = trained(network)
    digests = case.a.digest(), case.b.digest()
    reference = case.landscape.network.reference.digest()
    MATCHERS[matcher](case.symmetry, case.landscape).match(case.a, case.b)
    assert (case.a.digest(), case.b.digest()) == digests
    assert Weights.from_module(case.landscape.network.module).digest() == reference
