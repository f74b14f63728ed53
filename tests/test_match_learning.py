"""The matchers that search by the task's loss, and the relaxed action that carries their gradients."""

from __future__ import annotations

import itertools
import math
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from isthmus.errors import DataError, SettingError, SymmetryError
from isthmus.landscape import Examples, Landscape, Recipe, Task
from isthmus.landscape.dataset import TensorExamples
from isthmus.match import match_weights, maximising_assignment
from isthmus.match.annealing import match_annealing
from isthmus.match.learned import LearnedMatcher, match_learned, pulled_back, starting_scores
from isthmus.match.search import (
    BestKept,
    nearest_element,
    positions,
    project,
    same_element,
    slope_from,
    spans,
)
from isthmus.match.sinkhorn import SinkhornMatcher, first_numbers, match_sinkhorn, sinkhorn
from isthmus.match.soft import Relaxation, SoftAction, matrices_of
from isthmus.match.straight_through import match_straight_through
from isthmus.network import Network
from isthmus.progress import Silent
from isthmus.symmetry import Alignment, Outcome, discover
from isthmus.symmetry.action import members_of
from isthmus.weights import Weights, combine
from test_match_contract import Trained, examples, mlp, same, trained
from test_match_weight import noisy, seeded
from test_match_zoo import ALL, network
from zoo_transformers import TRANSFORMERS

# Without the families of transformers, which take long to trace and are made of the same parts.
EACH = [name for name in ALL if name not in {case.name for case in TRANSFORMERS}]
each = pytest.mark.parametrize("name", EACH)
NESTED = ("attention-of-cases", "grouped_convolution-of-cases", "stacked_heads", "experts_all")
BY_TASK = (match_straight_through, match_learned, match_sinkhorn, match_annealing)


def in_double(weights: Weights) -> Weights:
    """The same weights in a layout of float64."""
    return Weights.from_state_dict({name: tensor.double() for name, tensor in weights.items()}, buffers=())


# -- the relaxed action ---------------------------------------------------------------------------


@each
def test_permutation_matrices_act_as_the_group_does(name):
    symmetry, a = network(name)
    action = SoftAction(symmetry)
    for seed in range(2):
        element = symmetry.random(seeded(seed))
        assert torch.equal(action(matrices_of(element, a.vector), a), element.apply(a).vector)


@each
def test_relaxed_matrices_are_doubly_stochastic_and_become_a_group_element(name):
    symmetry, _ = network(name)
    relaxation = Relaxation(symmetry)
    free = {
        axis.name: torch.randn(axis.size, axis.size, generator=seeded(1)).double() for axis in symmetry.axes
    }
    for matrix in relaxation.matrices(free, lambda x: sinkhorn(x, 100)).values():
        ones = torch.ones(len(matrix), dtype=torch.float64)
        torch.testing.assert_close(matrix.sum(0), ones, rtol=0, atol=1e-5)
        torch.testing.assert_close(matrix.sum(1), ones, rtol=0, atol=1e-5)
    element = symmetry.random(seeded(2))
    wanted = matrices_of(element, torch.zeros((), dtype=torch.float64))
    sharp = {axis: free[axis] + 1e3 * matrix for axis, matrix in wanted.items()}
    for axis, matrix in relaxation.matrices(sharp, lambda x: sinkhorn(x, 100)).items():
        torch.testing.assert_close(matrix, wanted[axis], rtol=0, atol=1e-8)


@each
def test_a_soft_element_rounds_to_the_one_that_it_is_near(name):
    symmetry, a = network(name)
    element = symmetry.random(seeded(3))
    free = first_numbers(element, 1.0, 0.9, 0, a.vector.double())
    with torch.no_grad():
        matrices = Relaxation(symmetry).matrices(free, lambda x: sinkhorn(x, 20))
    assert same(nearest_element(symmetry, matrices), element)


@pytest.mark.parametrize("name", ["mlp-of-cases", "vgg-of-cases", "attention-of-cases", "dense-of-cases"])
def test_the_action_is_linear_in_the_matrix_of_each_axis(name):
    symmetry, a = network(name)
    a, generator = in_double(a), seeded(1)
    action = SoftAction(symmetry)
    drawn = {x.name: torch.randn(x.size, x.size, generator=generator).double() for x in symmetry.axes}
    for axis in symmetry.axes:
        other = torch.randn(axis.size, axis.size, generator=generator).double()
        between = action({**drawn, axis.name: 0.3 * drawn[axis.name] + 0.7 * other}, a)
        ends = 0.3 * action(drawn, a) + 0.7 * action({**drawn, axis.name: other}, a)
        torch.testing.assert_close(between, ends)


def test_the_action_refuses_what_does_not_fit():
    symmetry, a = network("mlp-of-cases")
    name = symmetry.axes[0].name
    with pytest.raises(SymmetryError, match=r"must have shape \[16, 16\], got \[3, 3\]"):
        SoftAction(symmetry)({name: torch.eye(3)}, a)
    with pytest.raises(SymmetryError, match="there is no axis 'nowhere'; the axes are"):
        SoftAction(symmetry)({"nowhere": torch.eye(3)}, a)


@pytest.mark.parametrize("name", ["mlp-of-cases", "resnet_projection-of-cases", *NESTED])
def test_the_gradient_of_a_pair_says_what_a_swap_changes(name):
    """⟨G, π(B)⟩ changes by the sum over the pairs of one axis, where it spans no tensor twice."""
    symmetry, b = network(name)
    gradient = torch.randn(b.vector.shape, generator=seeded(3))
    element = symmetry.random(seeded(4))
    before = float(gradient.double() @ element.apply(b).vector.double())
    slopes = pulled_back(SoftAction(symmetry), gradient, b, element)
    parents = {parent for axis in symmetry.axes for parent, _ in axis.parents}
    for axis in symmetry.axes:
        once = len({place.parameter for place in axis.places}) == len(axis.places)
        if not axis.free or axis.name in parents or not once:
            continue
        cell = next(units for units in members_of(axis) if units.numel() > 1)
        p = element.permutations[axis.name].clone()
        p[cell[:2]] = p[cell[:2].flip(0)]
        after = Alignment(symmetry, {**element.permutations, axis.name: p})
        rise = float(gradient.double() @ after.apply(b).vector.double()) - before
        told = sum(
            float(slopes[axis.name][i, p[i]] - slopes[axis.name][i, element.permutations[axis.name][i]])
            for i in cell[:2].tolist()
        )
        assert told == pytest.approx(rise, abs=1e-3)


@each
def test_the_scores_of_a_start_have_it_as_their_nearest_element(name):
    symmetry, a = network(name)
    b = noisy(a, 0.5)
    for start in (match_weights(a, b, symmetry), symmetry.identity(), symmetry.random(seeded(7))):
        scores = starting_scores(SoftAction(symmetry), a, b, start)
        assert same_element(nearest_element(symmetry, scores), start)


# -- Sinkhorn -------------------------------------------------------------------------------------


def test_sinkhorn_finds_the_only_scaling_of_two_by_two():
    """[[a, b], [c, d]] scales to x = √(ad) / (√(ad) + √(bc)) on its diagonal."""
    a, b, c, d = 5.0, 1.0, 2.0, 3.0
    found = sinkhorn(torch.tensor([[a, b], [c, d]], dtype=torch.float64).log(), 100)
    x = math.sqrt(a * d) / (math.sqrt(a * d) + math.sqrt(b * c))
    torch.testing.assert_close(found, torch.tensor([[x, 1 - x], [1 - x, x]], dtype=torch.float64))


def test_sinkhorn_survives_numbers_that_would_overflow():
    found = sinkhorn(torch.tensor([[1e4, 0.0], [0.0, 1e4]]), 20)
    torch.testing.assert_close(found, torch.eye(2))


def test_sinkhorn_gradients_are_right():
    free = torch.randn(2, 4, 4, generator=seeded(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: sinkhorn(x, 10), (free,))


def test_the_start_has_the_confidence_that_was_asked_for():
    symmetry, a = network("mlp-of-cases")
    element = symmetry.random(seeded(1))
    free = first_numbers(element, 2.0, 0.8, 0, a.vector)
    found = Relaxation(symmetry).matrices(free, lambda x: sinkhorn(x / 2.0, 20))
    for name, p in element.permutations.items():
        assert float(found[name].detach()[torch.arange(p.numel()), p].mean()) == pytest.approx(0.8, abs=0.05)


def test_sinkhorn_by_distance_recovers_a_planted_order_from_the_identity():
    """As in the paper's first experiment: no data, no start from weights."""
    case = trained("mlp")
    planted, _ = case.planted()
    b = planted.apply(case.a)
    found = match_sinkhorn(case.a, b, case.symmetry, start="identity", confidence=0.3, steps=300)
    assert same(found, planted.inverse())
    assert found.objective == 0


def test_sinkhorn_by_distance_tells_the_distance():
    case = trained("mlp")
    found = match_sinkhorn(case.a, case.b, case.symmetry, steps=20)
    assert found.objective == pytest.approx(-(case.a.distance(found.apply(case.b)) ** 2))


# -- what the task's loss brings ------------------------------------------------------------------


def midpoint(case: Trained, element: Alignment, split: str) -> float:
    point = combine((0.5, 0.5), (case.a, element.apply(case.b)))
    return float(case.landscape.evaluate([point], split).mean_loss)


@pytest.mark.parametrize("network", ["mlp", "residual"])
@pytest.mark.parametrize("match", BY_TASK)
def test_from_the_identity_each_search_lowers_the_midpoint(match, network):
    """Far below what it starts from, on training data and on data that it never saw."""
    case = trained(network)
    found = match(case.a, case.b, case.symmetry, case.landscape, start="identity", steps=100)
    for split in ("train", "test"):
        assert midpoint(case, found, split) < 0.8 * midpoint(case, case.symmetry.identity(), split)


@pytest.mark.parametrize("match", BY_TASK)
def test_the_objective_is_the_midpoint_on_the_training_split(match):
    case = trained("convolutional")
    found = match(case.a, case.b, case.symmetry, case.landscape, start="weights", steps=20)
    told = midpoint(case, found, "train")
    if match is match_annealing:
        ends = case.landscape.evaluate([case.a, case.b], "train").mean_loss
        told = max(told - float(ends.mean()), 0.0)
    assert found.objective == pytest.approx(-told, abs=1e-6)


class Closed(TensorExamples):
    """Examples that may not be read."""

    def chunks(self, batch, limit=None):
        raise AssertionError("the test split was read")

    stream = chunks


@pytest.mark.parametrize("match", BY_TASK)
def test_no_search_reads_the_test_split(match):
    case = trained("mlp")
    closed: Examples = Closed(examples(8, 2, False))
    task = Task(model=mlp, train=examples(192, 1, False), test=closed, recipe=Recipe(batch=32), name="closed")
    match(case.a, case.b, case.symmetry, Landscape(task), steps=3)


@pytest.mark.parametrize("match", [match_straight_through, match_learned, match_sinkhorn])
def test_another_landscape_may_choose(match):
    case = trained("mlp")
    other = Task(model=mlp, train=examples(64, 7, False), test=examples(8, 8, False), name="other")
    held_out = Landscape(other)
    found = match(case.a, case.b, case.symmetry, case.landscape, steps=20, held_out=held_out)
    point = combine((0.5, 0.5), (case.a, found.apply(case.b)))
    assert found.objective == pytest.approx(-float(held_out.evaluate([point], "train").mean_loss))


@pytest.mark.parametrize("match", BY_TASK)
def test_a_search_starts_from_a_given_alignment(match):
    case = trained("transformer")
    start = case.symmetry.random(seeded(9))
    found = match(case.a, case.b, case.symmetry, case.landscape, start=start, steps=1)
    whole = midpoint(case, start, "train")
    if match is match_annealing:
        whole -= float(case.landscape.evaluate([case.a, case.b], "train").mean_loss.mean())
    assert found.history[0] == pytest.approx(-whole, abs=1e-6)


def test_the_slope_is_the_gradient_of_the_loss_between():
    """Against autograd through the interpolation, written out."""
    case = trained("mlp")
    batch = examples(16, 3, False)
    with slope_from(case.landscape, case.a, itertools.repeat(batch)) as slope:
        loss, gradient = slope(case.b.vector, 0.3)
    image = case.b.vector.clone().requires_grad_()
    point = torch.lerp(case.a.vector, image, 0.3)
    parts = dict(
        zip(case.a.layout.names, (case.a.layout.view(point, i) for i in range(len(case.a))), strict=True)
    )
    output = torch.func.functional_call(mlp(), parts, (batch[0],))
    wanted = nn.functional.cross_entropy(output, batch[1])
    wanted.backward()
    assert loss == pytest.approx(float(wanted.detach()), rel=1e-6)
    torch.testing.assert_close(gradient, image.grad)


def test_the_first_projection_of_a_itself_is_its_weight_matching():
    case = trained("transformer")
    found = match_weights(case.a, case.b, case.symmetry)
    again = project(case.symmetry, case.a, case.b, found.permutations, 100)
    assert same(found, Alignment(case.symmetry, again))


def test_annealing_finds_the_planted_order_of_a_few_units():
    """Four units have 24 orders; with the barrier at 0 nothing is left to search."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 4), nn.Tanh(), nn.Linear(4, 3))
    task = Task(model=lambda: net, train=examples(192, 1, False), test=examples(8, 2, False), name="few")
    symmetry, a = discover(net, torch.zeros(1, 12)), Weights.from_module(net)
    b = Alignment(symmetry, {"0.weight[0]": torch.tensor([2, 3, 1, 0])}).apply(a)
    found = match_annealing(a, b, symmetry, Landscape(task), steps=400)
    assert found.outcome is Outcome.CONVERGED
    assert found.objective == pytest.approx(0, abs=1e-7)
    assert len(found.history) < 20


def test_annealing_takes_the_barrier_over_several_points():
    case = trained("mlp")
    found = match_annealing(case.a, case.b, case.symmetry, case.landscape, points=3, steps=3)
    low, high = case.landscape.evaluate([case.a, case.b], "train").mean_loss.tolist()
    excess = []
    for share in (0.25, 0.5, 0.75):
        point = combine((1 - share, share), (case.a, found.apply(case.b)))
        loss = float(case.landscape.evaluate([point], "train").mean_loss)
        excess.append(loss - (1 - share) * low - share * high)
    assert found.objective == pytest.approx(-max(0.0, *excess), abs=1e-6)


# -- parts ----------------------------------------------------------------------------------------


def test_the_best_is_kept_and_what_came_last_is_not_evaluated_again():
    symmetry, _ = network("mlp-of-cases")
    elements = [symmetry.random(seeded(seed)) for seed in range(3)]
    values = iter([1.0, 3.0, math.nan])
    kept = BestKept(lambda _: next(values), elements[0])
    for element in (elements[1], elements[1], elements[2]):
        kept.offer(element)
    found = kept.alignment()
    assert same(found, elements[1])
    assert (found.objective, found.history) == (3.0, (1.0, 3.0, 3.0, -math.inf))
    assert found.outcome is Outcome.BUDGET


def test_positions_and_spans():
    assert positions("midpoint", 3, 0) == [0.5] * 3
    drawn = positions("random", 1000, 0)
    assert min(drawn) >= 0
    assert max(drawn) < 1
    assert sum(drawn) / 1000 == pytest.approx(0.5, abs=0.05)
    assert [list(span) for span in spans(5, 2)] == [[0, 1], [2, 3], [4]]


class Told(Silent):
    """Keeps what is shown."""

    def __init__(self) -> None:
        object.__setattr__(self, "shown", [])

    def bar(self, name, total, start=0):
        self.shown.append((name, total))
        return super().bar(name, total, start)


def test_progress_is_told():
    case, told = trained("mlp"), Told()
    for match in BY_TASK:
        match(case.a, case.b, case.symmetry, case.landscape, steps=4, progress=told)
    assert told.shown == [
        ("matching straight through", 4),
        ("learning a matching", 4),
        ("Sinkhorn re-basin", 4),
        ("annealing", 4),
    ]


@pytest.mark.parametrize("match", BY_TASK)
def test_a_loss_that_is_not_finite_is_never_taken_for_a_low_one(match):
    case = trained("mlp")
    found = match(case.a, case.b * 1e38, case.symmetry, case.landscape, steps=20)
    assert found.outcome in (Outcome.DIVERGED, Outcome.BUDGET)
    assert found.objective == -math.inf
    assert set(found.history) == {-math.inf}


@pytest.mark.parametrize("match", BY_TASK)
def test_settings_are_refused(match):
    case, (other, foreign) = trained("mlp"), network("mlp-of-cases")
    with pytest.raises(SettingError, match="steps must be above 0, got 0"):
        match(case.a, case.b, case.symmetry, case.landscape, steps=0)
    with pytest.raises(SettingError, match="the start must be 'weights', 'identity' or an Alignment"):
        match(case.a, case.b, case.symmetry, case.landscape, start="nowhere")
    with pytest.raises(SettingError, match="an alignment of the symmetry that it searches"):
        match(case.a, case.b, case.symmetry, case.landscape, start=other.identity())
    with pytest.raises(SymmetryError, match="do not fit"):
        match(foreign, case.b, case.symmetry, case.landscape)


def test_settings_of_single_methods_are_refused():
    case = trained("mlp")
    with pytest.raises(SettingError, match="'midpoint' or 'random', but it is 'end'"):
        LearnedMatcher(case.symmetry, case.landscape, position="end")
    with pytest.raises(SettingError, match="the loss 'random' is that of a task: give a landscape"):
        SinkhornMatcher(case.symmetry, loss="random")
    with pytest.raises(SettingError, match=r"must lie in \(0, 1\), but it is 1"):
        SinkhornMatcher(case.symmetry, confidence=1)
    with pytest.raises(SettingError, match="must be one of 'distance', 'midpoint', 'random', but it is 'l2'"):
        SinkhornMatcher(case.symmetry, loss="l2")
    with pytest.raises(SettingError, match="cooling of at most 1, got 2"):
        match_annealing(case.a, case.b, case.symmetry, case.landscape, cooling=2)


def test_rounding_is_a_linear_assignment():
    scores = torch.randn(16, 16, generator=seeded(0)).double()
    symmetry, _ = network("mlp-of-cases")
    name = symmetry.axes[0].name
    assert torch.equal(
        nearest_element(symmetry, {name: scores}).permutations[name], maximising_assignment(scores)
    )


@pytest.mark.parametrize("match", [match_straight_through, match_learned])
def test_the_slope_is_taken_where_the_position_says(match, monkeypatch):
    case, asked = trained("mlp"), []

    @contextmanager
    def watched(*arguments):
        with slope_from(*arguments) as slope:
            yield lambda image, share: asked.append(share) or slope(image, share)

    monkeypatch.setattr(f"{match.__module__}.slope_from", watched)
    match(case.a, case.b, case.symmetry, case.landscape, position="random", steps=12, seed=3)
    assert asked == positions("random", 12, 3)
    assert len(set(asked)) == 12


def test_what_diverges_is_told_and_the_best_is_kept():
    case = trained("mlp")
    found = match_learned(case.a, case.b, case.symmetry, case.landscape, rate=1e38, steps=6, evaluate_every=2)
    assert found.outcome is Outcome.DIVERGED
    assert found.objective == max(found.history)


def test_frozen_parameters_tell_as_much_as_others():
    """Matching trains nothing: that a layer is held still in training may not hide it from the search."""
    case = trained("mlp")
    task = case.landscape.task
    module = Network(case.landscape.network.module).module.requires_grad_(False)
    frozen = replace(case.landscape, task=replace(task, model=module))
    settings = {"steps": 6, "evaluate_every": 2}
    for match in (match_straight_through, match_learned, match_sinkhorn):
        one, two = (
            match(case.a, case.b, case.symmetry, land, **settings) for land in (case.landscape, frozen)
        )
        assert one.history == pytest.approx(two.history, rel=1e-6)


def test_hot_annealing_climbs_and_cold_annealing_does_not():
    """At a temperature above all differences every swap is taken; near zero none that raises the energy."""
    case = trained("mlp")
    settings = {"steps": 40, "evaluate_every": 1, "examples": 64}
    hot, cold, cooled = (
        match_annealing(case.a, case.b, case.symmetry, case.landscape, **settings, **heat).history
        for heat in (
            {"temperature": 1e6, "cooling": 1.0}, {"temperature": 1e-12},
            {"temperature": 1e6, "cooling": 1e-30},
        )
    )  # fmt: skip
    assert any(later < earlier for earlier, later in pairwise(hot))
    assert all(later >= earlier for earlier, later in pairwise(cold))
    assert any(later < earlier for earlier, later in pairwise(cooled[:8]))
    assert all(later >= earlier for earlier, later in pairwise(cooled[20:]))


def test_weights_that_are_not_finite_are_refused_in_a_sentence():
    case = trained("mlp")
    with pytest.raises(DataError, match="not finite"):
        match_weights(case.a, case.b * math.nan, case.symmetry)
