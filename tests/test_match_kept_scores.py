"""What weight matching keeps from step to step: scores, values and B itself, against taking them anew."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

import cases
from isthmus.errors import SettingError, SymmetryError
from isthmus.fanout import Serial
from isthmus.match.guess import guess
from isthmus.match.slices import inner_product, put, reordered, selected, slices, stored
from isthmus.match.state import State
from isthmus.match.weight import match_pairs, match_weights
from isthmus.symmetry import Alignment, Outcome, Symmetry, discover
from isthmus.symmetry.action import Place, permute
from isthmus.weights import Weights
from test_match_weight import noisy, seeded
from test_match_zoo import ALL, network

KINDS = ["residual-of-cases", "vgg-of-cases", "dense-of-cases", "mlp-of-cases", "attention-of-cases"]
KINDS = [name for name in KINDS if name in ALL] + ["resnext", "stacked_heads", "experts_all"]


def wide() -> nn.Module:
    """A convolutional network whose widths let steps move few units or many."""
    return nn.Sequential(
        nn.Conv2d(3, 24, 3), nn.GroupNorm(1, 24), nn.ReLU(), nn.Conv2d(24, 40, 3), nn.ReLU(),
        nn.Conv2d(40, 40, 1), nn.ReLU(), nn.Flatten(), nn.Linear(160, 30), nn.ReLU(), nn.Linear(30, 4),
    )  # fmt: skip


def wide_pair() -> tuple[Symmetry, Weights, Weights]:
    models = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        models.append(wide())
    symmetry = discover(models[0], torch.zeros(1, 3, 6, 6), verify=False)
    return symmetry, Weights.from_module(models[0]), Weights.from_module(models[1])


def member_pair(name: str) -> tuple[Symmetry, Weights, Weights]:
    symmetry, a = network(name)
    return symmetry, a, Weights.from_module(ALL[name].module(2))


def assert_as_if_anew(state: State, symmetry: Symmetry, a: Weights, b: Weights) -> None:
    """B, its values and the scores are what they would be if everything were computed from the start."""
    fresh = State(symmetry, a, b, state.permutations)
    for name, tensor in fresh.moving.items():
        assert torch.equal(state.moving[name], tensor), name
        assert state.values[name] == pytest.approx(fresh.values[name], rel=1e-12, abs=1e-12), name
    for root in state.alone:
        moving = frozenset([root])
        if state.counted(moving):
            torch.testing.assert_close(
                state.scores(moving)[root], fresh.scores(moving)[root], rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize("name", [*KINDS, "wide"])
@pytest.mark.parametrize("guessed", [True, False], ids=["guess", "identity"])
def test_what_is_kept_is_what_it_would_be_if_computed_anew(name, guessed):
    symmetry, a, b = wide_pair() if name == "wide" else member_pair(name)
    state = State(symmetry, a, b, symmetry.identity().permutations)
    if guessed:
        guess(state)
        assert_as_if_anew(state, symmetry, a, b)
    for _ in range(3):
        for root in state.families:
            state.improve(root)
            assert_as_if_anew(state, symmetry, a, b)


def test_the_weights_given_are_never_written_to():
    symmetry, a, b = wide_pair()
    before = a.vector.clone(), b.vector.clone()
    for start in ("identity", "best"):
        match_weights(a, b, symmetry, start=start)
    assert torch.equal(a.vector, before[0])
    assert torch.equal(b.vector, before[1])


def test_an_axis_that_stands_alone_has_nothing_to_gain_right_after_its_own_step():
    symmetry, a, b = wide_pair()
    state = State(symmetry, a, b, symmetry.identity().permutations)
    for root in state.families:
        assert root in state.alone
        changed = state.improve(root)
        assert changed
        assert root not in changed
        assert state.improve(root) == set()


def test_what_the_guess_solved_with_all_places_known_need_not_be_visited():
    symmetry, a, b = wide_pair()
    state = State(symmetry, a, b, symmetry.identity().permutations)
    waiting = guess(state)
    assert waiting < set(state.families)
    for root in set(state.families) - waiting:
        assert state.improve(root) == set()


def test_a_converged_state_is_converged_for_scores_taken_anew():
    symmetry, a, b = wide_pair()
    for start in ("identity", "best", "invariant"):
        alignment = match_weights(a, b, symmetry, start=start)
        assert alignment.outcome is Outcome.CONVERGED
        fresh = State(symmetry, a, b, alignment.permutations)
        gained = fresh.objective
        for root in fresh.families:
            fresh.improve(root)
        assert fresh.objective == pytest.approx(gained, rel=1e-6)  # what float32 products leave open


# -- tensors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5,), (4, 5), (4, 5, 3), (4, 5, 2, 3), (1, 5, 1, 1)])
def test_stored_tensors_are_the_same_tensors(shape):
    tensor = torch.randn(shape, generator=seeded(0))
    kept = stored(tensor)
    assert torch.equal(kept, tensor)
    for dim, size in enumerate(shape):
        index = torch.randperm(size, generator=seeded(1))
        assert torch.equal(selected(kept, dim, index), tensor.index_select(dim, index))
        assert torch.equal(reordered(kept, {(dim, 1): index}), permute(tensor, {(dim, 1): index}))
        few = index[: (size + 1) // 2]
        written, values = stored(tensor.clone()), torch.randn(tensor.index_select(dim, few).shape)
        put(written, dim, few, stored(values))
        assert torch.equal(written, tensor.index_copy(dim, few, values))
        place = Place("w", dim, torch.arange(size)[:, None])
        ours, theirs = slices(kept, place), slices(tensor, place)
        assert torch.equal(ours.sort(1).values, theirs.sort(1).values)
        if dim < 2:
            assert ours.data_ptr() == kept.data_ptr()  # a view
    assert inner_product(kept, kept) == pytest.approx(float((tensor.double() ** 2).sum()), rel=1e-14)


def test_inner_products_are_accumulated_in_float64():
    many = torch.full((300_000,), 0.1)
    assert inner_product(many, many) == pytest.approx(300_000 * float(many[0]) ** 2, rel=1e-14)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["vgg-of-cases", "attention-of-cases", "resnext"])
def test_planted_permutations_are_recovered_on_a_gpu(name):
    symmetry, a = network(name)
    planted = symmetry.random(seeded(1))
    b = planted.apply(noisy(a, 0.3))
    there = [Weights(w.layout, w.vector.cuda(), {n: t.cuda() for n, t in w.buffers.items()}) for w in (a, b)]
    alignment = match_weights(*there, symmetry)
    assert torch.equal(alignment.apply(planted.apply(a)).vector, a.vector)


# -- many pairs -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recording(Serial):
    """A fan-out that remembers what it was given."""

    seen: list[object] = field(default_factory=list)

    def map(self, function, items):
        self.seen.extend(items := list(items))
        return super().map(function, items)


def test_many_pairs_are_matched_as_if_one_by_one():
    case = cases.CASES["vgg"]
    symmetry = discover(case.module(), case.example(), verify=False)
    a, b, c = (Weights.from_module(case.module(seed)) for seed in (1, 2, 3))
    pairs, fanout = [(a, b), (b, c), (a, a)], Recording()
    settings = {"restarts": 2, "order": "forward", "seed": 4, "start": "identity", "max_sweeps": 7}
    found = match_pairs(pairs, symmetry, fanout=fanout, **settings)
    assert fanout.seen == pairs
    assert found == [match_weights(*pair, symmetry, **settings) for pair in pairs]
    assert isinstance(found[0], Alignment)
    assert match_pairs([], symmetry) == []


def test_pairs_are_refused_as_single_ones_are():
    case = cases.CASES["mlp"]
    symmetry = discover(case.module(), case.example(), verify=False)
    a = Weights.from_module(case.module())
    with pytest.raises(SettingError, match="must be at least 1, but they are 0 and 100"):
        match_pairs([(a, a)], symmetry, restarts=0)
    with pytest.raises(SymmetryError, match="do not fit the symmetry's network: missing"):
        match_pairs([(a, a), (a, Weights.from_module(nn.Linear(2, 2)))], symmetry)
