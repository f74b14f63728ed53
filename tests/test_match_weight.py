"""Weight matching: planted permutations come back, the objective never falls, a slow reference agrees."""

from __future__ import annotations

import itertools
import math
import pickle
from dataclasses import dataclass, field
from functools import cache

import pytest
import torch
from torch import nn

from cases import CASES, each_case, found
from isthmus.errors import SettingError, SymmetryError
from isthmus.fanout import Serial
from isthmus.match import AbstractMatcher, WeightMatcher, match_weights, maximising_assignment
from isthmus.symmetry import Alignment, Outcome, Symmetry, discover
from isthmus.weights import Weights


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noisy(weights: Weights, share: float, seed: int = 3) -> Weights:
    """Weights with Gaussian noise of this share of each tensor's standard deviation."""
    generator, vector = seeded(seed), weights.vector.clone()
    for position, name in enumerate(weights.layout.names):
        view = weights.layout.view(vector, position)
        scale = float(weights[name].std()) if view.numel() > 1 else 1.0
        view += share * scale * torch.randn(view.shape, generator=generator)
    return Weights(weights.layout, vector, weights.buffers)


@cache
def pair(name: str) -> tuple[Weights, Weights]:
    """Two unrelated models of one architecture."""
    return Weights.from_module(CASES[name].module(1)), Weights.from_module(CASES[name].module(2))


def naive_objective(a: Weights, b: Weights, alignment: Alignment) -> float:
    """⟨θ_A, π(θ_B)⟩, element by element from the definition of an axis' places."""
    total = 0.0
    for name in a:
        source = [list(range(size)) for size in b[name].shape]
        for axis in alignment.symmetry.axes:
            for place in axis.places:
                if place.parameter == name:
                    assert place.blocks == 1
                    for unit, where in enumerate(place.index.tolist()):
                        other = place.index[alignment.permutations[axis.name][unit]].tolist()
                        for here, there in zip(where, other, strict=True):
                            source[place.dim][here] = there
        for target in itertools.product(*(range(size) for size in a[name].shape)):
            origin = tuple(source[dim][i] for dim, i in enumerate(target))
            total += float(a[name][target]) * float(b[name][origin])
    return total


# -- truth ----------------------------------------------------------------------------------------


@each_case
def test_planted_permutations_are_recovered_exactly(name):
    symmetry = found(name)
    a = Weights.from_module(CASES[name].module())
    planted = symmetry.random(seeded(1))
    b = planted.apply(noisy(a, 0.3))
    alignment = match_weights(a, b, symmetry)
    for axis, permutation in planted.inverse().permutations.items():
        assert torch.equal(alignment.permutations[axis], permutation), axis


@each_case
def test_equal_models_give_the_identity(name):
    a = Weights.from_module(CASES[name].module())
    alignment = match_weights(a, a, found(name))
    assert alignment.outcome is Outcome.CONVERGED
    assert set(alignment.moved.values()) == {0.0}
    assert alignment.apply(a).equal(a)


@each_case
def test_the_objective_is_what_it_says_and_never_falls(name):
    a, b = pair(name)
    alignment = match_weights(a, b, found(name), restarts=2)
    assert alignment.objective == pytest.approx(a.dot(alignment.apply(b)), rel=1e-9)
    assert alignment.objective >= a.dot(b)
    assert list(alignment.history) == sorted(alignment.history)
    assert alignment.history[-1] == alignment.objective


def published_algorithm(a: Weights, b: Weights, symmetry: Symmetry) -> dict[str, torch.Tensor]:
    """Algorithm 1 of Ainsworth et al. for axes that stand alone, in the network's order."""
    permutations = dict(symmetry.identity().permutations)
    before = None
    while before is None or any(not torch.equal(before[name], p) for name, p in permutations.items()):
        before = dict(permutations)
        for axis in symmetry.axes:
            still = permutations | {axis.name: torch.arange(axis.size)}
            image = Alignment(symmetry, still).apply(b)
            scores = torch.zeros(axis.size, axis.size, dtype=torch.float64)
            for place in axis.places:
                if place.parameter in a:
                    left, right = (
                        w[place.parameter].double().movedim(place.dim, 0)[place.index].flatten(1)
                        for w in (a, image)
                    )
                    scores += left @ right.T
            permutations[axis.name] = maximising_assignment(scores)
    return permutations


@pytest.mark.parametrize("name", ["mlp", "vgg", "resnet_projection", "dense"])
def test_from_the_identity_it_is_the_published_algorithm(name):
    a, b = pair(name)
    assert all(not axis.parents and not on_both_sides(axis) for axis in found(name).axes)
    alignment = match_weights(a, b, found(name), start="identity", order="forward")
    for axis, permutation in published_algorithm(a, b, found(name)).items():
        assert torch.equal(alignment.permutations[axis], permutation), axis


@pytest.mark.parametrize("name", ["cnn_flatten", "tied_autoencoder", "dense", "gated", "group_norm"])
def test_the_objective_agrees_with_a_naive_reference(name):
    a, b = pair(name)
    alignment = match_weights(a, b, found(name))
    assert alignment.objective == pytest.approx(naive_objective(a, b, alignment), rel=1e-6)


@each_case
def test_no_single_exchange_of_two_free_units_is_better(name):
    """A converged matching is a local optimum: checked with the public action alone."""
    a, b = pair(name)
    symmetry = found(name)
    alignment = match_weights(a, b, symmetry)
    image = alignment.apply(b)
    best = a.dot(image)
    parents = {parent for axis in symmetry.axes for parent, _ in axis.parents}
    for axis in symmetry.axes:
        if axis.name in parents or len(axis.parents) > 1 or on_both_sides(axis):
            continue
        for first, second in itertools.islice(itertools.combinations(range(axis.size), 2), 12):
            if axis.cells[first] == axis.cells[second]:
                swap = torch.arange(axis.size)
                swap[[first, second]] = swap[[second, first]]
                step = dict(symmetry.identity().permutations) | {axis.name: swap}
                gain = a.dot(Alignment(symmetry, step).apply(image)) - best
                assert gain <= 1e-6 * abs(best), (axis.name, first, second)


def on_both_sides(axis) -> bool:
    """Whether an axis lies along two dims of one parameter, so that its step is not a linear assignment."""
    names = [place.parameter for place in axis.places]
    return len(names) != len(set(names))


def test_one_hidden_layer_is_solved_exactly():
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    symmetry = discover(net, torch.zeros(1, 3), verify=False)
    generator = seeded(0)
    layout = Weights.from_module(net).layout
    a, b = (Weights(layout, torch.randn(layout.numel, generator=generator)) for _ in range(2))
    best = max(
        a.dot(Alignment(symmetry, {"0.weight[0]": torch.tensor(p)}).apply(b))
        for p in itertools.permutations(range(5))
    )
    assert match_weights(a, b, symmetry).objective == pytest.approx(best, rel=1e-9)


def test_biases_and_norm_scales_count():
    """Two units that differ in their bias, or in their scale, alone."""
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Tanh(), nn.Linear(2, 1))
    symmetry = discover(net, torch.zeros(3, 2), verify=False)
    plain = Weights.from_module(net)
    for name in ("0.bias", "1.weight", "1.bias"):
        vector = torch.ones_like(plain.vector)
        plain.layout.view(vector, plain.layout.index[name]).copy_(torch.tensor([1.0, 3.0]))
        a = Weights(plain.layout, vector, plain.buffers)
        turn = Alignment(symmetry, {"0.weight[0]": torch.tensor([1, 0])})
        assert match_weights(a, turn.apply(a), symmetry).permutations["0.weight[0]"].tolist() == [1, 0], name


def test_buffers_do_not_count_but_are_carried_along():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Tanh(), nn.Linear(2, 1))
    symmetry = discover(net, torch.zeros(3, 2), verify=False)
    a = Weights.from_module(net)
    turn = Alignment(symmetry, {"0.weight[0]": torch.tensor([1, 0])})
    loud = a.with_buffers(dict(a.buffers) | {"1.running_mean": torch.tensor([0.0, 1e6])})
    alignment = match_weights(a, turn.apply(loud), symmetry)
    assert alignment.apply(turn.apply(loud)).equal(loud)


def test_the_inner_order_of_groups_is_solved_for_every_pair_of_groups():
    """Within groups as well as between them, from one start."""
    symmetry = found("group_norm")
    a = Weights.from_module(CASES["group_norm"].module())
    for seed in range(10):
        planted = symmetry.random(seeded(seed))
        alignment = match_weights(a, planted.apply(a), symmetry)
        assert (alignment @ planted).apply(a).equal(a)


# -- settings -------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_result_and_seeds_matter():
    a, b = pair("vgg")
    first = match_weights(a, b, found("vgg"), restarts=3, seed=5)
    assert match_weights(a, b, found("vgg"), restarts=3, seed=5) == first
    others = [match_weights(a, b, found("vgg"), seed=seed, start="identity").objective for seed in range(6)]
    assert len(set(others)) > 1


def test_global_randomness_is_neither_read_nor_changed():
    a, b = pair("mlp")
    torch.manual_seed(0)
    first = match_weights(a, b, found("mlp"), restarts=2)
    state = torch.get_rng_state()
    torch.manual_seed(1)
    assert match_weights(a, b, found("mlp"), restarts=2) == first
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)


def test_restarts_keep_the_best():
    a, b = pair("vgg")
    objectives = [match_weights(a, b, found("vgg"), restarts=n).objective for n in (1, 3, 6)]
    assert objectives == sorted(objectives)


@dataclass(frozen=True)
class Recording(Serial):
    """A fan-out that remembers what it was given."""

    seen: list[int] = field(default_factory=list)

    def map(self, function, items):
        self.seen.extend(items := list(items))
        return super().map(function, items)


def test_restarts_spread_over_the_fanout():
    a, b = pair("mlp")
    fanout = Recording()
    spread = match_weights(a, b, found("mlp"), restarts=3, fanout=fanout)
    assert fanout.seen == [0, 1, 2]
    assert spread == match_weights(a, b, found("mlp"), restarts=3)


def test_the_limit_of_sweeps_is_an_outcome():
    a, b = pair("vgg")
    stopped = match_weights(a, b, found("vgg"), max_sweeps=1)
    assert stopped.outcome is Outcome.SWEEP_LIMIT
    assert len(stopped.history) == 2
    forward = match_weights(a, b, found("vgg"), order="forward")
    assert forward.outcome is Outcome.CONVERGED


def test_settings_out_of_range_are_refused():
    a, b = pair("mlp")
    with pytest.raises(
        SettingError, match="restarts and max_sweeps must be at least 1, but they are 0 and 100"
    ):
        match_weights(a, b, found("mlp"), restarts=0)
    with pytest.raises(SettingError, match="must be 'random' or 'forward', but it is 'backward'"):
        match_weights(a, b, found("mlp"), order="backward")
    with pytest.raises(
        SettingError, match="start must be one of 'best', 'identity', 'invariant', but it is 'random'"
    ):
        match_weights(a, b, found("mlp"), start="random")


def test_weights_of_another_network_are_refused():
    a, _ = pair("mlp")
    with pytest.raises(SymmetryError, match="do not fit the symmetry's network: missing"):
        match_weights(a, Weights.from_module(nn.Linear(2, 2)), found("mlp"))
    with pytest.raises(SymmetryError, match="do not fit the symmetry's network: missing"):
        match_weights(Weights.from_module(nn.Linear(2, 2)), a, found("mlp"))


def test_a_network_without_symmetry_gives_the_identity():
    net = nn.Linear(3, 2)
    symmetry = discover(net, torch.zeros(1, 3))
    assert symmetry.axes == ()
    assert (symmetry.log2_order, symmetry.coverage) == (0.0, 0.0)
    a = Weights.from_module(net)
    assert match_weights(a, a * 2.0, symmetry).apply(a).equal(a)


def test_alignments_travel_between_processes():
    a, b = pair("group_norm")
    alignment = match_weights(a, b, found("group_norm"))
    assert pickle.loads(pickle.dumps(alignment)) == alignment


def test_a_matcher_is_a_frozen_value():
    assert isinstance(WeightMatcher(found("mlp")), AbstractMatcher)
    a, b = pair("mlp")
    assert WeightMatcher(found("mlp"), restarts=2).match(a, b) == match_weights(
        a, b, found("mlp"), restarts=2
    )


def test_double_precision_weights_are_matched_in_double():
    module = CASES["cnn_flatten"].module().double()
    symmetry = discover(module, CASES["cnn_flatten"].example().double(), verify=False)
    a = Weights.from_module(module)
    b = symmetry.random(seeded(2)).apply(a)
    alignment = match_weights(a, b, symmetry)
    assert alignment.apply(b).vector.dtype == torch.float64
    assert alignment.apply(b).equal(a)
    assert math.isclose(alignment.objective, a.dot(a), rel_tol=1e-14)


def test_the_assignment_maximises():
    scores = torch.tensor([[4.0, 5.0, 0.0], [4.0, 4.5, 0.0], [0.0, 0.0, 1.0]])
    assert maximising_assignment(scores).tolist() == [1, 0, 2]
