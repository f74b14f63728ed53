"""Matching up to changes of basis: planted elements come back, the objective falls, the function stays."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import isthmus
from isthmus.errors import SettingError
from isthmus.landscape import Landscape, Recipe, Task
from isthmus.match.basis import State, match_bases, resumed
from isthmus.match.basis_learned import _apart, refine_bases
from isthmus.match.circuits import best_map, pair_values
from isthmus.symmetry import Alignment, Outcome
from isthmus.symmetry.linear import discover_bases
from isthmus.symmetry.linear.bases import multiplied
from isthmus.tasks.transformer import Transformer
from isthmus.weights import Weights, combine

TOKENS = 9
EXAMPLE = torch.randint(TOKENS, (2, 6), generator=torch.Generator().manual_seed(0))


def network(seed: int = 0) -> nn.Module:
    """A double transformer whose parameters are all of ordinary size."""
    module = Transformer(TOKENS, 6, 12, 3, 1).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4 + 0.1)
    return module


MODULE = network()
BASES = discover_bases(MODULE, EXAMPLE)
PERMUTATIONS = isthmus.discover(MODULE, EXAMPLE)
FIRST = Weights.from_module(MODULE)
SECOND = Weights.from_module(network(1))


def match(a: Weights, b: Weights, **settings):
    return match_bases(a, b, MODULE, EXAMPLE, PERMUTATIONS, bases=BASES, **settings)


def output(weights: Weights) -> Tensor:
    with torch.no_grad():
        return weights.to_module(copy.deepcopy(MODULE))(EXAMPLE)


def falls(history: tuple[float, ...]) -> bool:
    return all(later <= earlier * (1 + 1e-12) for earlier, later in pairwise(history))


# -- planted elements ---------------------------------------------------------------------------------


def planted(weights: Weights, seed: int, circuits: str, spread: float = 1.0) -> Weights:
    """The same function in another basis, with other orders of heads and hidden units."""
    generator = torch.Generator().manual_seed(seed)
    maps = BASES.random(generator, spread)
    if circuits == "none":
        maps = {name: m for name, m in maps.items() if name.startswith("residual")}
    return BASES.act(maps, PERMUTATIONS.random(generator).apply(BASES.fold(weights)))


@pytest.mark.parametrize("circuits", ["none", "orthogonal"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_planted_rotations_and_orders_are_recovered(circuits, seed):
    found = match(FIRST, planted(FIRST, seed, circuits), circuits=circuits)
    assert found.objective < 1e-12 * FIRST.dot(FIRST)
    assert found.outcome is Outcome.CONVERGED
    moved = found.apply(planted(FIRST, seed, circuits))
    assert_close(moved.vector, found.anchor(FIRST).vector, rtol=0, atol=1e-4)


def test_planted_invertible_maps_are_recovered():
    generator = torch.Generator().manual_seed(5)
    maps = {n: m for n, m in BASES.random(generator, 1.5).items() if not n.startswith("residual")}
    moved = BASES.act(maps, FIRST)
    rotated = match(FIRST, moved, circuits="orthogonal", residual=False)
    found = match(FIRST, moved, circuits="invertible", residual=False)
    assert rotated.objective > 1e-3 * FIRST.dot(FIRST)
    assert found.objective < 1e-10 * FIRST.dot(FIRST)


def test_equal_models_stay_as_they_are():
    found = match(FIRST, FIRST)
    assert found.objective < 1e-20 * FIRST.dot(FIRST)
    assert_close(found.apply(FIRST).vector, found.anchor(FIRST).vector, rtol=0, atol=1e-10)


# -- laws ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"circuits": "none", "residual": False},
        {"circuits": "none"},
        {"circuits": "orthogonal"},
        {"circuits": "orthogonal", "heads": False},
        {"circuits": "invertible"},
    ],
    ids=str,
)
def test_the_function_stays_and_the_objective_falls(settings):
    found = match(FIRST, SECOND, sweeps=8, **settings)
    anchor, moved = found.anchor(FIRST), found.apply(SECOND)
    assert_close(output(anchor), output(FIRST), rtol=1e-9, atol=1e-9)
    assert_close(output(moved), output(SECOND), rtol=1e-9, atol=1e-9)
    assert moved.layout == FIRST.layout
    assert falls(found.history)
    assert found.history[-1] < found.history[0] or not found.symmetry.bases
    assert_close(anchor.distance(moved) ** 2, found.objective, rtol=1e-9, atol=0)


def test_more_freedom_comes_nearer_than_its_start():
    """Each kind of map lowers the distance that the one before it ended with, from the same state."""
    residual = match(FIRST, SECOND, circuits="none")
    circuits = match(FIRST, SECOND, circuits="orthogonal")
    invertible = match(FIRST, SECOND, circuits="invertible")
    folded = BASES.fold(FIRST).distance(BASES.fold(SECOND)) ** 2
    assert residual.objective < folded
    assert circuits.objective < folded
    assert invertible.objective < circuits.objective


def test_the_same_call_gives_the_same_bits():
    first, second = match(FIRST, SECOND, sweeps=3), match(FIRST, SECOND, sweeps=3)
    assert first.history == second.history
    assert torch.equal(first.apply(SECOND).vector, second.apply(SECOND).vector)


def test_heads_stay_in_place_if_asked_to():
    heads = next(name for axis in PERMUTATIONS.axes for name, _ in axis.parents)
    drawn = (PERMUTATIONS.random(torch.Generator().manual_seed(seed)) for seed in range(99))
    moved = next(each for each in drawn if each.moved[heads]).apply(FIRST)
    found, free = match(FIRST, moved, heads=False), match(FIRST, moved)
    assert not any(step.moved[heads] for step in found.steps if isinstance(step, Alignment))
    assert free.objective < 1e-9 * FIRST.dot(FIRST) < found.objective


def test_single_precision_weights_stay_single():
    narrow = Weights.from_module(network().float())
    found = match_bases(narrow, narrow, network().float(), EXAMPLE, sweeps=1)
    assert found.apply(narrow).vector.dtype == torch.float32
    assert found.anchor(narrow).layout == narrow.layout
    assert "the scale norm.weight is multiplied into head.weight, and is 1" in found.folded


def test_grouped_queries_of_a_llama():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=11, hidden_size=12, intermediate_size=10, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, head_dim=4, use_cache=False,
    )  # fmt: skip
    torch.manual_seed(0)
    a, b = (transformers.LlamaForCausalLM(config).eval() for _ in range(2))
    inputs = {"input_ids": EXAMPLE}
    first, second = Weights.from_module(a), Weights.from_module(b)
    found = match_bases(first, second, a, inputs, sweeps=2)
    assert falls(found.history)
    with torch.no_grad():
        before = b(**inputs).logits
        after = found.apply(second).to_module(b)(**inputs).logits
    assert_close(after, before, rtol=1e-4, atol=1e-5)


# -- the parts against their definitions --------------------------------------------------------------


def test_the_best_map_beats_random_ones():
    fixed, moving = BASES.fold(FIRST), BASES.fold(SECOND)
    generator = torch.Generator().manual_seed(0)
    for basis in (BASES.bases[0], BASES.bases[1], BASES.bases[-1]):

        def distance(matrix: Tensor, basis=basis) -> float:
            moved = replace(BASES, bases=(basis,)).act({basis.name: matrix}, moving)
            return fixed.distance(moved) ** 2

        best = best_map(basis, fixed, moving)
        assert_close(best @ best.T, torch.eye(basis.size, dtype=torch.float64))
        reached = distance(best)
        for _ in range(20):
            skew = torch.randn(basis.size, basis.size, generator=generator, dtype=torch.float64) * 0.1
            frame = basis.frame
            inner = torch.linalg.matrix_exp(frame.T @ (skew - skew.T) @ frame)
            assert distance(best @ basis.embedded(inner)) >= reached
        if basis.kind != "residual":
            assert distance(best_map(basis, fixed, moving, invertible=True)) <= reached


def test_the_value_of_a_pair_is_the_inner_product_after_the_best_rotation():
    fixed, moving = BASES.fold(FIRST), BASES.fold(SECOND)
    members = [basis for basis in BASES.bases if basis.kind == "value-output"][:3]
    values = pair_values(members, fixed, moving)
    for i, mine in enumerate(members):
        for j, theirs in enumerate(members):
            total = torch.zeros(mine.size, mine.size, dtype=torch.float64)
            for here, there in zip(mine.places, theirs.places, strict=True):
                a = fixed[here.parameter].movedim(here.dim, 0)[here.index[0]].reshape(mine.size, -1)
                b = moving[there.parameter].movedim(there.dim, 0)[there.index[0]].reshape(mine.size, -1)
                total += b @ a.T
            left, _, right = torch.linalg.svd(total)
            assert_close(values[i, j], torch.trace((left @ right).T @ total))


def test_a_whole_axis_is_multiplied_as_its_parts_are():
    place = BASES.bases[0].places[0]
    tensor = FIRST[place.parameter]
    matrix = torch.randn(12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert_close(multiplied(tensor, place, matrix), tensor @ matrix)


# -- refinement ---------------------------------------------------------------------------------------


def small_task() -> Task:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(TOKENS, (240, 7), generator=generator)
    tokens[:, 1::2] = (tokens[:, 0::2][:, :3] * 2 + 1) % TOKENS  # every other token follows from the last
    data = tokens[:, :-1].clone(), tokens[:, 1:].clone()
    recipe = Recipe(epochs=12, batch=20, optimizer="adamw", rate=1e-2, weight_decay=0.0)
    return Task(
        model=lambda: Transformer(TOKENS, 6, 12, 3, 1),
        train=tuple(t[:200] for t in data),
        test=tuple(t[200:] for t in data),
        recipe=recipe,
        name="pairs",
    )


@pytest.fixture(scope="module")
def trained():
    task = small_task()
    return task, isthmus.train(task, seed=1), isthmus.train(task, seed=2)


def test_refinement_lowers_the_loss_between_and_keeps_the_function(trained):
    task, a, b = trained
    landscape = Landscape(task)
    start = replace(match_bases(a, b, task.network, EXAMPLE, sweeps=1), steps=())  # B as it comes, folded
    found = refine_bases(start, a, b, landscape, steps=40, rounds=2, rate=1e-2, evaluate_every=10)
    assert found.history[0] > found.chosen == min(found.history)
    assert len(found.history) == 5
    moved, anchor = found.alignment.apply(b), found.alignment.anchor(a)
    assert found.alignment.outcome is Outcome.BUDGET
    kept = landscape.evaluate([b, moved, a, anchor], "test").loss.mean(1)
    assert_close(kept[0], kept[1], rtol=1e-3, atol=1e-4)
    assert_close(kept[2], kept[3], rtol=1e-3, atol=1e-4)
    assert_close(anchor.distance(moved) ** 2, found.alignment.objective, rtol=1e-4, atol=1e-3)
    between = [
        landscape.evaluate([combine((0.5, 0.5), (each.anchor(a), each.apply(b)))], "train").loss.mean()
        for each in (start, found.alignment)
    ]
    assert between[1] < between[0]


def test_refinement_is_a_function_of_its_seed_and_never_reads_the_test_split(trained):
    task, a, b = trained
    start = match_bases(a, b, task.network, EXAMPLE, sweeps=2, circuits="invertible")
    settings = {"steps": 4, "rounds": 2, "evaluate_every": 2, "seed": 3, "position": "random"}
    first = refine_bases(start, a, b, Landscape(task), **settings)
    blind = replace(task, test=tuple(torch.zeros_like(t) for t in task.test))
    second = refine_bases(start, a, b, Landscape(blind), **settings)
    assert first.history == second.history
    assert torch.equal(first.alignment.apply(b).vector, second.alignment.apply(b).vector)


def test_a_resumed_state_stands_where_the_matching_ended():
    found = match(FIRST, SECOND, sweeps=2)
    state = resumed(found, FIRST, SECOND)
    assert isinstance(state, State)
    assert_close(state.objective, found.objective, rtol=1e-12, atol=0)


def test_refusals(trained):
    task, a, b = trained
    with pytest.raises(SettingError, match="circuits must be one of"):
        match(FIRST, SECOND, circuits="any")
    with pytest.raises(SettingError, match="sweeps at least 1"):
        match(FIRST, SECOND, sweeps=0)
    start = match_bases(a, b, task.network, EXAMPLE, sweeps=1)
    with pytest.raises(SettingError, match="steps must be at least 1"):
        refine_bases(start, a, b, Landscape(task), steps=0)
    with pytest.raises(SettingError, match="position must be"):
        refine_bases(start, a, b, Landscape(task), position="end")
    with pytest.raises(SettingError, match="rounds at most steps"):
        refine_bases(start, a, b, Landscape(task), steps=2, rounds=3)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*task.train), batch_size=20)
    with pytest.raises(SettingError, match="give held_out"):
        refine_bases(start, a, b, Landscape(replace(task, train=loader)), steps=3)
    bare = match_bases(a, b, task.network, EXAMPLE, sweeps=1, residual=False, circuits="none")
    with pytest.raises(SettingError, match="no bases to refine"):
        refine_bases(bare, a, b, Landscape(task), steps=3)


def test_the_examples_that_decide_are_not_drawn_for_the_steps():
    inputs = torch.arange(50.0)[:, None]
    data = (inputs, torch.zeros(50, dtype=torch.int64))
    task = Task(model=nn.Linear(1, 2), train=data, test=data)
    drawn, deciding = _apart(Landscape(task), None, seed=3)
    first, second = ({*land.task.split("train").data[0].flatten().tolist()} for land in (drawn, deciding))
    assert not first & second
    assert first | second == {*inputs.flatten().tolist()}
    assert len(second) < len(first)
