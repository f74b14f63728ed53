"""Matching on the zoo: planted permutations come back exactly, whatever the group looks like."""

from __future__ import annotations

import itertools
import math
from functools import cache

import pytest
import torch
from torch import nn

import cases
from isthmus.match import matched_axes, maximising_assignment
from isthmus.match.guess import guess
from isthmus.match.places import counted_places
from isthmus.match.state import State
from isthmus.match.weight import match_weights
from isthmus.symmetry import Alignment, Axis, Outcome, Symmetry, action, discover
from isthmus.symmetry.action import Place
from isthmus.weights import Weights
from test_match_weight import noisy, seeded
from test_zoo import ZOO

ALL = {f"{name}-of-cases": case for name, case in cases.CASES.items()} | ZOO
each = pytest.mark.parametrize("name", ALL)
SEEDS = 3


@cache
def network(name: str) -> tuple[Symmetry, Weights]:
    """The symmetry of a member, and weights in general position."""
    case = ALL[name]
    if case.needs:
        pytest.importorskip(case.needs)
    module = case.module()
    return discover(module, case.example(), case.outputs, verify=False), Weights.from_module(module)


def assert_recovered(symmetry: Symmetry, a: Weights, seed: int, **settings) -> None:
    """What a random element and noise of 0.3 standard deviations did is undone, to the last bit."""
    planted, near = symmetry.random(seeded(seed)), noisy(a, 0.3, seed)
    alignment = match_weights(a, planted.apply(near), symmetry, **settings)
    assert alignment.outcome is Outcome.CONVERGED
    # Compared by what it does: units that carry equal weights, or none, may differ. Buffers do not count.
    assert torch.equal(alignment.apply(planted.apply(a)).vector, a.vector)
    assert alignment.objective == pytest.approx(a.dot(near), rel=1e-9)


# -- truth ----------------------------------------------------------------------------------------


@each
def test_planted_permutations_are_recovered_exactly(name):
    symmetry, a = network(name)
    for seed in range(SEEDS):
        assert_recovered(symmetry, a, seed)


@each
def test_the_guess_does_not_depend_on_the_order_that_b_comes_in(name):
    symmetry, a = network(name)
    b = noisy(a, 0.6, 5)
    turned = symmetry.random(seeded(2)).apply(b)
    first, second = (
        match_weights(a, each, symmetry, start="invariant", order="forward") for each in (b, turned)
    )
    assert torch.equal(first.apply(b).vector, second.apply(turned).vector)
    assert first.history == pytest.approx(second.history, rel=1e-9)


@each
def test_the_objective_never_falls(name):
    symmetry, a = network(name)
    b = Weights.from_module(ALL[name].module(2))
    alignment = match_weights(a, b, symmetry)
    assert list(alignment.history) == sorted(alignment.history)
    assert alignment.objective == alignment.history[-1] == pytest.approx(a.dot(alignment.apply(b)), rel=1e-9)
    assert alignment.objective >= a.dot(b)


# -- structures that the zoo has only small -------------------------------------------------------


def wide_grouped() -> nn.Module:
    """Residual and wide, with grouped convolutions: units in groups on both sides of one tensor."""
    from zoo_vision import Bottleneck, conv_norm

    return nn.Sequential(
        *conv_norm(3, 32, 3), nn.ReLU(), Bottleneck(32, 32, 64, 1, 8), Bottleneck(64, 32, 64, 1, 8),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5),
    )  # fmt: skip


def wide_recurrent() -> nn.Module:
    def forward(m, x):
        return m.head(m.body(x)[0][:, -1])

    return cases.Calls(forward, body=nn.LSTM(4, 40, 2, batch_first=True), head=nn.Linear(40, 3))


@pytest.mark.parametrize(
    ("build", "shape"),
    [(wide_grouped, (2, 3, 8, 8)), (wide_recurrent, (2, 3, 4))],
    ids=["grouped", "recurrent"],
)
def test_wide_structures_are_recovered_with_norms_and_biases_that_tell_nothing(build, shape):
    torch.manual_seed(0)
    module = build()
    symmetry = discover(module, torch.randn(shape), verify=False)
    a = Weights.from_module(module)
    for seed in range(SEEDS):
        assert_recovered(symmetry, a, seed)


def nested(*numbers: int) -> tuple[Axis, ...]:
    """Axes below one another: so many units, in each so many below it, and so on; each with a tensor."""
    axes: list[Axis] = []
    size = 1
    for level, number in enumerate(numbers):
        size *= number
        above = torch.arange(size) // number
        parents = ((axes[-1].name, above),) if axes else ()
        place = Place(f"level{level}", 0, torch.arange(size)[:, None])
        axes.append(Axis(f"level{level}", size, (place,), parents, above))
    return tuple(axes)


def total(scores: dict, permutations: dict) -> float:
    return math.fsum(
        float(score[torch.arange(len(score)), permutations[name]].sum()) for name, score in scores.items()
    )


def by_trying(axes: tuple[Axis, ...], scores: dict, level: int = 0, here: int = 0, there: int = 0) -> float:
    """The best value of what lies below one pair of units, from the definition: every bijection is tried."""
    if level == len(axes):
        return 0.0
    axis = axes[level]
    parts = [torch.arange(axis.size), torch.arange(axis.size)]
    if axis.parents:
        above = axis.parents[0][1]
        parts = [(above == here).nonzero()[:, 0], (above == there).nonzero()[:, 0]]
    worth = torch.zeros(len(parts[0]), len(parts[1]), dtype=torch.float64)
    for row, i in enumerate(parts[0].tolist()):
        for column, j in enumerate(parts[1].tolist()):
            worth[row, column] = scores[axis.name][i, j] + by_trying(axes, scores, level + 1, i, j)
    return float(worth[torch.arange(len(worth)), maximising_assignment(worth)].sum())


@pytest.mark.parametrize("numbers", [(3, 2, 2), (3, 2, 5), (2, 5, 3), (5, 6), (2, 2, 2, 5)])
def test_axes_within_axes_are_solved_exactly(numbers):
    axes = nested(*numbers)
    start = {axis.name: torch.arange(axis.size) for axis in axes}
    for seed in range(3):
        generator = seeded(seed)
        scores = {
            axis.name: torch.randn(axis.size, axis.size, generator=generator, dtype=torch.float64)
            for axis in axes
        }
        chosen = action.nearest(axes, scores, maximising_assignment, start)
        for axis in axes:
            assert sorted(chosen[axis.name].tolist()) == list(range(axis.size))
            for name, above in axis.parents:
                assert torch.equal(above[chosen[axis.name]], chosen[name][above])
        assert total(scores, chosen) == pytest.approx(by_trying(axes, scores), rel=1e-12)


@pytest.mark.parametrize("inside", [1, 3, 5])
@pytest.mark.parametrize("turned", [False, True])
def test_below_two_axes_of_which_one_stays_the_other_is_solved_exactly(inside, turned):
    """Cells of a unit of `rows` and one of `columns`; the columns stay as they are, moved or not."""
    one, two = (
        torch.arange(4 * 3 * inside) // size % number for size, number in ((3 * inside, 4), (inside, 3))
    )
    axes = (
        Axis("rows", 4, (), (), torch.zeros(4, dtype=torch.int64)),
        Axis("columns", 3, (), (), torch.zeros(3, dtype=torch.int64)),
        Axis("both", 12 * inside, (), (("rows", one), ("columns", two)), 3 * one + two),
    )
    start = action.random(axes, seeded(1)) if turned else {a.name: torch.arange(a.size) for a in axes}
    scores = torch.randn(12 * inside, 12 * inside, generator=seeded(2), dtype=torch.float64)
    chosen = action.nearest(axes, {"both": scores}, maximising_assignment, start, {"rows", "both"})
    assert torch.equal(chosen["columns"], start["columns"])

    def worth(rows) -> float:
        cells = []
        for row in range(4):
            for column in range(3):
                here = (one == row) & (two == column)
                there = (one == rows[row]) & (two == int(start["columns"][column]))
                block = scores[here][:, there]
                cells.append(float(block[torch.arange(inside), maximising_assignment(block)].sum()))
        return math.fsum(cells)

    best = max(worth(rows) for rows in itertools.permutations(range(4)))
    assert total({"both": scores}, chosen) == pytest.approx(best, rel=1e-12)


def test_only_the_pairs_that_the_outer_choice_can_use_are_solved():
    """Planted: of 20 × 20 pairs of heads, hardly more than the 20 right ones."""
    axes = nested(20, 16)
    generator = seeded(0)
    a = torch.randn(320, 16, generator=generator)
    planted = action.random(axes, generator)["level1"]
    b = (a + 0.3 * torch.randn(a.shape, generator=generator))[planted]
    solved = 0

    def counting(scores):
        nonlocal solved
        solved += scores.shape[0] == 16
        return maximising_assignment(scores)

    start = {axis.name: torch.arange(axis.size) for axis in axes}
    chosen = action.nearest(axes, {"level1": a @ b.T}, counting, start)
    assert torch.equal(chosen["level1"], planted.argsort())
    assert solved < 100


# -- which slices count ---------------------------------------------------------------------------


def test_what_follows_two_axes_counts_for_the_one_that_moves():
    """A stacked parameter, its columns ordered by head and stream: none of it is free, all of it counts."""
    symmetry, a = network("stacked_heads")
    sizes = dict(zip(a.layout.names, a.layout.shapes, strict=True))
    (stream,) = (axis.name for axis in symmetry.axes if axis.name == "embed.weight[0]")
    found = {each.place.parameter for each in counted_places(symmetry.axes, {stream}, sizes)[stream]}
    assert found == {"q", "k", "v", "o", "embed.weight", "embed.bias", "head.weight"}
    (heads,) = (axis for axis in symmetry.axes if axis.name == "q[0]")
    below = {axis.name for axis in symmetry.axes if heads.name in dict(axis.parents)}
    for places in counted_places(symmetry.axes, {heads.name, *below}, sizes).values():
        tensors = [each.place.parameter for each in places]
        assert len(tensors) == len(set(tensors))  # no tensor counts twice


def test_an_axis_on_both_sides_of_a_tensor_counts_on_both():
    symmetry, a = network("recurrent-of-cases")
    sizes = dict(zip(a.layout.names, a.layout.shapes, strict=True))
    (axis,) = symmetry.axes
    counted = counted_places(symmetry.axes, {axis.name}, sizes)[axis.name]
    assert sorted(each.place.dim for each in counted if each.place.parameter == "turn.weight") == [0, 1]


@pytest.mark.parametrize("name", ["stacked_heads", "experts_all", "attention-of-cases", "resnext"])
def test_the_scores_of_an_axis_say_what_its_steps_gain(name):
    """Moving one axis, all others still or following: the objective rises by exactly what the scores say."""
    symmetry, a = network(name)
    b = Weights.from_module(ALL[name].module(2))
    state = State(symmetry, a, b, symmetry.identity().permutations)
    for axis in symmetry.axes:
        moving = frozenset([axis.name])
        names = [each.place.parameter for each in state.counted(moving).get(axis.name, ())]
        if not axis.free or len(names) != len(set(names)):
            continue
        units = next(units for units in action.members_of(axis) if units.numel() > 1)
        swap = torch.arange(axis.size)
        swap[units[:2]] = swap[units[:2].flip(0)]
        still = dict(symmetry.identity().permutations) | {axis.name: swap}
        step = Alignment(symmetry, action.follow(symmetry.axes, still, axis.name))
        scores = state.scores(moving)[axis.name]
        rise = total({0: scores}, {0: swap}) - float(scores.diagonal().sum())
        assert a.dot(step.apply(b)) - a.dot(b) == pytest.approx(rise, abs=1e-4), axis.name


# -- starts ---------------------------------------------------------------------------------------


def test_the_guess_alone_is_close():
    symmetry, a = network("vision_transformer")
    b = symmetry.random(seeded(1)).apply(noisy(a, 0.3))
    state = State(symmetry, a, b, symmetry.identity().permutations)
    guess(state)
    assert state.objective > 0.9 * a.dot(noisy(a, 0.3))


def test_the_best_start_is_the_one_with_the_larger_objective():
    symmetry, a = network("vision_transformer")
    b = noisy(a, 0.3)
    starts = {
        start: match_weights(a, b, symmetry, start=start, max_sweeps=1) for start in ("identity", "best")
    }
    assert starts["identity"].history[0] == pytest.approx(a.dot(b))
    assert starts["best"].history[0] >= starts["identity"].history[0]
    turned = symmetry.random(seeded(1)).apply(b)
    assert match_weights(a, turned, symmetry).history[0] > a.dot(turned)


# -- what an axis gained --------------------------------------------------------------------------


def test_gains_say_what_moved_and_what_it_brought():
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    symmetry = discover(net, torch.zeros(1, 2), verify=False)
    a = Weights.from_module(net)
    b = Alignment(symmetry, {"0.weight[0]": torch.tensor([1, 2, 0])}).apply(a)
    (axis,) = matched_axes(a, b, match_weights(a, b, symmetry))
    carried = ("0.weight", "0.bias", "2.weight")
    assert (axis.name, axis.size, axis.free, axis.moved) == ("0.weight[0]", 3, 3, 3)
    assert axis.before == pytest.approx(sum(float((a[n] * b[n]).sum()) for n in carried), rel=1e-6)
    assert axis.after == pytest.approx(sum(float((a[n] ** 2).sum()) for n in carried), rel=1e-6)
    assert axis.most == pytest.approx(axis.after, rel=1e-12)
    assert axis.cosine == pytest.approx(1.0)
    assert axis.gain == axis.after - axis.before > 0


@each
def test_no_gain_exceeds_the_most_that_is_possible(name):
    symmetry, a = network(name)
    b = Weights.from_module(ALL[name].module(2))
    for axis in matched_axes(a, b, match_weights(a, b, symmetry, max_sweeps=1)):
        assert abs(axis.before) <= axis.most * (1 + 1e-9)
        assert abs(axis.after) <= axis.most * (1 + 1e-9)
        assert 0 <= axis.moved <= axis.size
