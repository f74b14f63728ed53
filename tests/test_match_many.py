"""Many models: planted frames come back, pairs compose without drift, and the joint objective never falls."""

from __future__ import annotations

import itertools
import math
from functools import cache

import pytest
import torch
from torch import nn

import cases
from isthmus.errors import SettingError, SymmetryError
from isthmus.landscape import Landscape
from isthmus.match import match_weights, maximising_assignment
from isthmus.match.many import match_many, match_many_scores, mean_of
from isthmus.match.relaxation import _between, _carried, _line_search, _moved, _objective, frank_wolfe
from isthmus.match.universe import Universe
from isthmus.progress import Silent
from isthmus.symmetry import Alignment, Outcome, Symmetry, discover
from isthmus.weights import Weights
from test_match_weight import noisy, seeded

METHODS = ("universe", "frank-wolfe", "merge-many", "star")
JOINT = ("universe", "frank-wolfe", "merge-many")
NAMES = (
    "mlp", "cnn_flatten", "resnet_projection", "resnet_option_a", "group_norm", "grouped_convolution",
    "depth_multiplier", "tied_autoencoder", "dense", "gated", "recurrent", "attention", "permuted_layout",
)  # fmt: skip
each = pytest.mark.parametrize("name", NAMES)
RELAXED = ("mlp", "grouped_convolution", "attention")  # structures that the slow relaxation is tried on
every = pytest.mark.parametrize("method", METHODS)


def pairs_of(methods: tuple[str, ...]) -> list[tuple[str, str]]:
    """Every structure with every method."""
    return [(n, m) for m in methods for n in (RELAXED if m == "frank-wolfe" else NAMES)]


@cache
def network(name: str) -> tuple[Symmetry, Weights]:
    """The symmetry of a case, and weights in general position."""
    case = cases.CASES[name]
    module = case.module()
    return discover(module, case.example(), case.outputs, verify=False), Weights.from_module(module)


@cache
def strangers(name: str, number: int) -> tuple[Weights, ...]:
    """Unrelated models of one architecture."""
    return tuple(Weights.from_module(cases.CASES[name].module(seed)) for seed in range(1, number + 1))


def pairwise(models: list[Weights] | tuple[Weights, ...], alignments: list[Alignment]) -> float:
    """Σ_{i<j} ⟨g_i θ_i, g_j θ_j⟩, from the definition."""
    moved = [found.apply(model) for found, model in zip(alignments, models, strict=True)]
    return math.fsum(a.dot(b) for a, b in itertools.combinations(moved, 2))


def same(one: list[Alignment], two: list[Alignment]) -> bool:
    return all(
        torch.equal(a.permutations[axis], b.permutations[axis])
        for a, b in zip(one, two, strict=True)
        for axis in a.permutations
    )


# -- truth ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "method"), pairs_of(METHODS))
def test_planted_frames_are_recovered_for_all_pairs(name, method):
    """Four noisy copies, each in an order of its own: every one comes back to the order of the reference."""
    symmetry, a = network(name)
    planted = [symmetry.random(seeded(seed)) for seed in range(4)]
    copies = [noisy(a, 0.2, seed) for seed in range(4)]
    models = [g.apply(copy) for g, copy in zip(planted, copies, strict=True)]
    found = match_many(models, symmetry, method=method, reference=1)
    assert all(each.outcome is Outcome.CONVERGED for each in found)
    for g, h in zip(planted, found, strict=True):
        # Compared by what they do: units that carry equal weights, or none, may differ.
        assert torch.equal(h.apply(g.apply(a)).vector, planted[1].apply(a).vector)
    assert found[0].objective == pytest.approx(pairwise(copies, [symmetry.identity()] * 4), rel=1e-6)


def test_the_relaxation_stays_at_a_planted_frame():
    symmetry, a = network("attention")
    planted = [symmetry.random(seeded(seed)) for seed in range(3)]
    models = [g.apply(noisy(a, 0.1, seed)) for seed, g in enumerate(planted)]
    start = [g.inverse() for g in planted]
    found = frank_wolfe(symmetry, models, [g.permutations for g in start], 100, Silent(), "")
    assert same([Alignment(symmetry, p) for p in found], start)


def test_a_step_of_the_relaxation_goes_to_the_maximum_along_its_line():
    symmetry, _ = network("attention")
    tensors = [dict(model) for model in strangers("attention", 3)]
    carried = _carried(symmetry.axes, tensors[0])
    point, corner = (
        [
            {name: torch.eye(p.numel())[p] for name, p in symmetry.random(seeded(s)).permutations.items()}
            for s in seeds
        ]
        for seeds in ((1, 2, 3), (4, 5, 6))
    )
    degree = 2 * max(len(dims) for dims in carried.values())
    share, best = _line_search(tensors, carried, point, corner, degree)

    def at(t: float) -> float:
        return float(
            _objective(tensors, carried, [_between(p, c, t) for p, c in zip(point, corner, strict=True)])
        )

    assert best == pytest.approx(at(share), abs=1e-3)
    assert all(best >= at(i / 50) - 1e-3 for i in range(51))


@each
def test_at_group_elements_the_relaxed_action_is_the_action(name):
    symmetry, a = network(name)
    g = symmetry.random(seeded(5))
    tensors = {name: a[name] for name in a}
    matrices = {name: torch.eye(p.numel())[p] for name, p in g.permutations.items()}
    carried = _carried(symmetry.axes, tensors)
    moved = g.apply(a)
    for parameter in a:
        relaxed = _moved(tensors[parameter], carried.get(parameter, {}), matrices)
        torch.testing.assert_close(relaxed, moved[parameter])


# -- laws -----------------------------------------------------------------------------------------


@every
def test_pairs_compose_without_drift(method):
    symmetry, _ = network("attention")
    models = strangers("attention", 3)
    to_frame = match_many(models, symmetry, method=method)
    ab, bc, ac = (to_frame[j].inverse() @ to_frame[i] for i, j in ((0, 1), (1, 2), (0, 2)))
    assert same([bc @ ab], [ac])
    assert same([ac.inverse() @ bc @ ab], [symmetry.identity()])


def test_pairs_matched_one_by_one_do_drift():
    """The law above is no accident: pairwise matchings of strangers do not close."""
    symmetry, _ = network("mlp")
    a, b, c = strangers("mlp", 3)
    ab, bc, ac = (match_weights(x, y, symmetry) for x, y in ((b, a), (c, b), (c, a)))
    assert not same([bc @ ab], [ac])


@pytest.mark.parametrize(("name", "method"), pairs_of(JOINT))
def test_the_joint_objective_never_falls(name, method):
    symmetry, _ = network(name)
    models = strangers(name, 4)
    found = match_many(models, symmetry, method=method)
    history = found[0].history
    assert list(history) == sorted(history)
    assert found[0].objective == history[-1] == pytest.approx(pairwise(models, found), rel=1e-5)
    assert found[0].objective >= pairwise(models, [symmetry.identity()] * 4) * (1 - 1e-9)
    assert all(each.objective == found[0].objective for each in found)


@pytest.mark.parametrize("name", ["mlp", "attention", "resnet_projection", "recurrent"])
def test_no_single_model_can_be_improved(name):
    """At the end each model is matched to the sum of the others, as far as axis by axis goes."""
    symmetry, _ = network(name)
    models = strangers(name, 4)
    moved = [g.apply(w) for g, w in zip(match_many(models, symmetry), models, strict=True)]
    for number, own in enumerate(moved):
        first, *rest = (w for other, w in enumerate(moved) if other != number)
        others = sum(rest, first)
        again = match_weights(others, own, symmetry, start="identity")
        assert again.objective == pytest.approx(others.dot(own), rel=1e-6)


def test_a_star_never_lowers_what_it_maximises():
    symmetry, _ = network("mlp")
    models = strangers("mlp", 4)
    for reference in range(4):
        found = match_many(models, symmetry, method="star", reference=reference)
        for g, w in zip(found, models, strict=True):
            assert models[reference].dot(g.apply(w)) >= models[reference].dot(w)
        assert found[0].objective == pytest.approx(pairwise(models, found), rel=1e-5)


def test_the_joint_methods_beat_the_star_on_all_pairs():
    symmetry, _ = network("mlp")
    models = strangers("mlp", 5)
    star = match_many(models, symmetry, method="star")
    for method in JOINT:
        assert match_many(models, symmetry, method=method)[0].objective > star[0].objective


@every
def test_equal_models_are_not_moved(method):
    symmetry, a = network("attention")
    found = match_many([a, a, a], symmetry, method=method)
    assert same(found, [symmetry.identity()] * 3)
    turned = symmetry.random(seeded(3)).apply(a)
    one, two, three = match_many([turned, a, turned], symmetry, method=method)
    assert same([one], [three])
    assert torch.equal(two.apply(a).vector, turned.vector)


@every
@pytest.mark.parametrize("number", [1, 2])
def test_one_model_and_two(method, number):
    symmetry, _ = network("mlp")
    models = strangers("mlp", number)
    found = match_many(models, symmetry, method=method)
    assert len(found) == number
    assert same(found[:1], [symmetry.identity()])
    assert found[0].objective == pytest.approx(pairwise(models, found), abs=1e-6)


@every
def test_the_same_seed_gives_the_same(method):
    symmetry, _ = network("gated")
    models = strangers("gated", 3)
    one, two = (match_many(models, symmetry, method=method, restarts=2, seed=7) for _ in range(2))
    assert one == two


@pytest.mark.parametrize("method", JOINT)
def test_the_mean_does_not_depend_on_the_order_of_the_list(method):
    symmetry, _ = network("mlp")
    models = strangers("mlp", 4)
    mean = mean_of(models, match_many(models, symmetry, method=method, reference=0))
    order = [2, 0, 3, 1]
    turned = [models[number] for number in order]
    other = mean_of(turned, match_many(turned, symmetry, method=method, reference=order.index(0)))
    torch.testing.assert_close(mean.vector, other.vector)
    # In the frame of another model, it is the same mean with its units in another order.
    found = match_many(models, symmetry, method=method, reference=0)
    back = match_many(models, symmetry, method=method, reference=2)
    torch.testing.assert_close(found[2].apply(mean_of(models, back)).vector, mean.vector)


def test_restarts_never_lower_the_objective():
    symmetry, _ = network("mlp")
    models = strangers("mlp", 3)
    best = [match_many(models, symmetry, restarts=number)[0].objective for number in (1, 3)]
    assert best[1] >= best[0]


def test_a_limit_of_sweeps_is_told():
    symmetry, _ = network("mlp")
    found = match_many(strangers("mlp", 4), symmetry, method="merge-many", max_sweeps=1)
    assert {each.outcome for each in found} == {Outcome.SWEEP_LIMIT}
    assert len(found[0].history) == 2


# -- by brute force -------------------------------------------------------------------------------


def tiny() -> tuple[Symmetry, list[Weights]]:
    modules = []
    for seed in range(3):
        torch.manual_seed(seed)
        modules.append(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1)))
    symmetry = discover(modules[0], torch.zeros(1, 2), verify=False)
    return symmetry, [Weights.from_module(module) for module in modules]


def elements(symmetry: Symmetry) -> list[Alignment]:
    orders = [list(map(torch.tensor, itertools.permutations(range(axis.size)))) for axis in symmetry.axes]
    names = [axis.name for axis in symmetry.axes]
    return [
        Alignment(symmetry, dict(zip(names, chosen, strict=True))) for chosen in itertools.product(*orders)
    ]


@pytest.mark.parametrize("method", JOINT)
def test_with_restarts_the_best_of_all_triples_is_found(method):
    symmetry, models = tiny()
    group = elements(symmetry)
    best = max(pairwise(models, [symmetry.identity(), g, h]) for g, h in itertools.product(group, repeat=2))
    found = match_many(models, symmetry, method=method, restarts=6)
    assert found[0].objective == pytest.approx(best, rel=1e-5)


def test_a_step_gains_what_the_universe_says():
    symmetry, _ = network("attention")
    models = strangers("attention", 3)
    universe = Universe(symmetry, models, [symmetry.random(seeded(s)).permutations for s in range(3)])
    for root in universe.families:
        before = universe.objective
        changed = universe.improve(1, root)
        assert (universe.objective > before) == bool(changed)
        found = [Alignment(symmetry, p) for p in universe.permutations]
        assert universe.objective == pytest.approx(pairwise(models, found), rel=1e-5)


# -- given scores ---------------------------------------------------------------------------------


def planted_scores(symmetry: Symmetry, number: int, noise: float, seed: int = 0):
    """Features of each unit, in an order of its own for each model; similarities are inner products."""
    generator = seeded(seed)
    planted = [symmetry.random(generator) for _ in range(number)]
    features: list[dict[str, torch.Tensor]] = [{} for _ in planted]
    for axis in symmetry.axes:
        common = torch.randn(axis.size, 24, generator=generator)
        for own, g in zip(features, planted, strict=True):
            own[axis.name] = (common + noise * torch.randn(common.shape, generator=generator))[
                g.permutations[axis.name]
            ]
    scores = {
        (i, j): {name: features[i][name] @ features[j][name].T for name in features[i]}
        for j in range(number)
        for i in range(j)
    }
    return planted, scores


@each
def test_planted_scores_are_recovered(name):
    symmetry, _ = network(name)
    planted, scores = planted_scores(symmetry, 4, 0.3)
    found = match_many_scores(scores, symmetry, 4, reference=2)
    frame = planted[2].permutations
    for g, h in zip(planted, found, strict=True):
        assert same([h], [planted[2] @ g.inverse()]), "g⁻¹ undoes the planted order"
    assert found[0].outcome is Outcome.CONVERGED
    assert frame.keys() == found[0].permutations.keys()


def test_scores_are_maximised_as_defined():
    symmetry, _ = tiny()
    scores = {
        (i, j): {
            axis.name: torch.randn(axis.size, axis.size, generator=seeded(10 * i + j))
            for axis in symmetry.axes
        }
        for i, j in ((0, 1), (0, 2), (1, 2))
    }

    def worth(found: list[Alignment]) -> float:
        return sum(
            float(matrix[found[i].permutations[name][u], found[j].permutations[name][u]])
            for (i, j), axes in scores.items()
            for name, matrix in axes.items()
            for u in range(len(matrix))
        )

    group = elements(symmetry)
    best = max(worth([symmetry.identity(), g, h]) for g, h in itertools.product(group, repeat=2))
    found = match_many_scores(scores, symmetry, 3, restarts=10)
    assert found[0].objective == pytest.approx(worth(found)) == pytest.approx(best)
    assert list(found[0].history) == sorted(found[0].history)


def test_two_models_by_scores_are_one_assignment():
    symmetry, _ = network("mlp")
    scores = {(0, 1): {a.name: torch.randn(a.size, a.size, generator=seeded(1)) for a in symmetry.axes}}
    _, found = match_many_scores(scores, symmetry, 2)
    for axis in symmetry.axes:
        wanted = maximising_assignment(scores[0, 1][axis.name])
        assert torch.equal(found.permutations[axis.name], wanted)


# -- the mean -------------------------------------------------------------------------------------


def test_the_mean_of_aligned_copies_is_the_copy():
    symmetry, a = network("mlp")
    models = [a, *(symmetry.random(seeded(s)).apply(a) for s in range(3))]
    mean = mean_of(models, match_many(models, symmetry))
    torch.testing.assert_close(mean.vector, a.vector)


def test_the_mean_gets_statistics_of_its_own(image_task):
    landscape = Landscape(image_task, batchnorm="recalibrate")
    symmetry = discover(image_task.traceable, image_task.example, verify=False)
    models = []
    for seed in range(3):
        torch.manual_seed(seed)
        models.append(Weights.from_module(image_task.model()))
    found = match_many(models, symmetry)
    mean = mean_of(models, found, landscape)
    assert mean.buffers.keys() == models[0].buffers.keys()
    assert not torch.equal(mean.buffers["bn.running_mean"], models[0].buffers["bn.running_mean"])
    assert torch.equal(mean.vector, mean_of(models, found).vector)
    assert not mean_of(models, found).buffers


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"method": "mean"}, "one of 'universe', 'frank-wolfe', 'merge-many', 'star', but it is 'mean'"),
        ({"reference": 2}, "from 0 to 1, but it is 2"),
        ({"restarts": 0}, "at least 1, but they are 0 and 100"),
        ({"max_sweeps": 0}, "at least 1, but they are 1 and 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, told):
    symmetry, a = network("mlp")
    with pytest.raises(SettingError, match=told):
        match_many([a, a], symmetry, **settings)


def test_no_models_and_other_networks_are_refused():
    symmetry, a = network("mlp")
    with pytest.raises(SettingError, match="no models to match"):
        match_many([], symmetry)
    with pytest.raises(SymmetryError, match="do not fit the symmetry's network"):
        match_many([a, network("gated")[1]], symmetry)
    with pytest.raises(SettingError, match="got 2 models and 1 alignments"):
        mean_of([a, a], [symmetry.identity()])


def test_scores_that_do_not_fit_are_refused():
    symmetry, _ = network("mlp")
    _, scores = planted_scores(symmetry, 3, 0.1)
    with pytest.raises(
        SettingError, match=r"the 3 pairs i < j of 3 models, but the pair \(1, 2\) is missing"
    ):
        match_many_scores({pair: scores[pair] for pair in ((0, 1), (0, 2))}, symmetry, 3)
    with pytest.raises(SettingError, match=r"the pair \(0, 2\) is none of them"):
        match_many_scores(scores, symmetry, 2)
    axis = symmetry.axes[0].name
    with pytest.raises(SettingError, match=r"have shape \[2, 2\], expected \[16, 16\]"):
        match_many_scores({(0, 1): {axis: torch.eye(2)}}, symmetry, 2)
    with pytest.raises(SettingError, match="no such axis"):
        match_many_scores({(0, 1): {"odd": torch.eye(2)}}, symmetry, 2)


def test_the_relaxed_maximum_is_above_where_it_started_and_rounds_well():
    """Without the ascent that follows: from a random start the rounded elements must be far better."""
    symmetry, a = network(NAMES[0])
    models = [symmetry.random(seeded(k)).apply(noisy(a, 0.3, k)) for k in range(3)]
    start = [symmetry.random(seeded(10 + k)).permutations for k in range(3)]
    found = frank_wolfe(symmetry, models, start, 100, Silent(), "")

    def value(elements):
        moved = [Alignment(symmetry, p).apply(m) for p, m in zip(elements, models, strict=True)]
        return sum(moved[i].dot(moved[j]) for i in range(3) for j in range(i))

    best = sum(noisy(a, 0.3, i).dot(noisy(a, 0.3, j)) for i in range(3) for j in range(i))
    assert value(found) > 0.5 * (value(start) + best)
