"""Activation matching: planted orders come back, and the naive formula agrees."""

from __future__ import annotations

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import cases
from isthmus.errors import DataError, SettingError, SymmetryError
from isthmus.landscape import Landscape, Task
from isthmus.match.activation import PUBLISHED, ActivationMatcher, cross_moments, match_activations, value_of
from isthmus.match.many import match_many_activations
from isthmus.match.weight import match_weights
from isthmus.symmetry import Outcome, discover
from isthmus.tasks import digits
from isthmus.weights import Weights
from test_zoo import ZOO
from zoo_laws import seeded

ALL = {f"{name}-of-cases": case for name, case in cases.CASES.items()} | ZOO
EXAMPLES = 48


def leaf_of(example) -> Tensor | None:
    """The one tensor that a network takes; None if it takes several, or something else."""
    leaves = pytree.tree_leaves(example)
    return leaves[0] if isinstance(example, (Tensor, tuple)) and len(leaves) == 1 else None


SINGLE = [n for n, case in ALL.items() if not case.needs and leaf_of(case.example()) is not None]


def task_of(module: nn.Module, example) -> Task:
    """A task with random examples of the kind that a network takes; its targets do not count."""
    leaf = leaf_of(example)
    shape = (EXAMPLES, *leaf.shape[1:])
    if leaf.is_floating_point():
        inputs = torch.randn(shape, generator=seeded(7))
    else:
        inputs = torch.randint(int(leaf.max()) + 1, shape, generator=seeded(7))
    data = (inputs, torch.zeros(EXAMPLES, dtype=torch.int64))
    return Task(model=module, train=data, test=data)


def mlp(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 3))


def told_apart(scores: Tensor, order: Tensor) -> bool:
    """Whether in this order every unit's own score is the largest of its row."""
    ordered = scores[:, order]
    others = ordered.masked_fill(torch.eye(len(ordered), dtype=torch.bool), -torch.inf)
    return bool((ordered.diagonal() > others.amax(1) + 1e-3).all())


@pytest.mark.parametrize("name", SINGLE)
def test_planted_permutations_are_recovered(name):
    """A model and its own reordering do the same on data, so every unit finds itself."""
    case = ALL[name]
    module = case.module()
    symmetry = discover(module, case.example(), case.outputs, verify=False)
    land = Landscape(task_of(module, case.example()), batch=16)
    a = Weights.from_module(module)
    planted = symmetry.random(seeded(1))
    matcher = ActivationMatcher(symmetry, land, examples=EXAMPLES)
    found, scores = matcher.match(a, planted.apply(a)), matcher.scores([a, planted.apply(a)])[0, 1]
    undone = planted.inverse()
    # Units that do the same on the data may be exchanged: then the value is the same.
    assert value_of(found, scores) >= value_of(undone, scores) - 1e-6 * abs(value_of(undone, scores))
    for axis in symmetry.axes:
        order = undone.permutations[axis.name]
        if axis.name in scores and not axis.parents and told_apart(scores[axis.name], order):
            assert torch.equal(found.permutations[axis.name], order)


@pytest.mark.parametrize("statistic", ["correlation", "covariance", "product"])
@pytest.mark.parametrize("where", ["activation", "preactivation"])
def test_every_setting_agrees_with_the_formula_written_out(statistic, where):
    """A naive reference: hooks, all activations stored, numpy's formulas, one assignment a layer."""
    one, two = mlp(1), mlp(2)
    task = task_of(one, torch.zeros(1, 6))
    symmetry = discover(one, torch.zeros(2, 6))
    found = match_activations(
        Weights.from_module(one), Weights.from_module(two), symmetry, Landscape(task, batch=16),
        statistic=statistic, where=where, examples=EXAMPLES,
    )  # fmt: skip
    x, total = task.split("train").data[0], 0.0
    for depth, axis in ((1, "0.weight[0]"), (3, "2.weight[0]")):
        with torch.no_grad():
            z, w = (net[: depth + (where == "activation")](x).double().T for net in (one, two))
        if statistic == "product":
            scores = z @ w.T / EXAMPLES
        else:
            both = torch.cat([z, w])
            joint = torch.cov(both) if statistic == "covariance" else torch.corrcoef(both)
            scores = joint[: len(z), len(z) :].nan_to_num(0)
        rows, columns = linear_sum_assignment(scores.numpy(), maximize=True)
        assert found.permutations[axis].tolist() == columns.tolist()
        total += float(scores[rows, columns].sum())
    assert found.objective == pytest.approx(total, rel=1e-4)
    assert found.outcome is Outcome.ASSIGNED


def test_equal_models_give_the_identity_though_some_units_are_dead():
    net = mlp()
    with torch.no_grad():
        net[0].bias[:4] = -100.0
    symmetry = discover(net, torch.zeros(2, 6))
    a = Weights.from_module(net)
    found = match_activations(a, a, symmetry, Landscape(task_of(net, torch.zeros(1, 6))))
    assert all(share == 0 for share in found.moved.values())


def test_three_models_in_one_pass_give_what_pairs_give():
    nets = [mlp(seed) for seed in range(3)]
    symmetry = discover(nets[0], torch.zeros(2, 6))
    land = Landscape(task_of(nets[0], torch.zeros(1, 6)), batch=16)
    models = [Weights.from_module(net) for net in nets]
    matcher = ActivationMatcher(symmetry, land)
    together = matcher.scores(models)
    assert set(together) == {(0, 1), (0, 2), (1, 2)}
    for (i, j), scores in together.items():
        alone = matcher.scores([models[i], models[j]])[0, 1]
        for axis in scores:
            torch.testing.assert_close(scores[axis], alone[axis])


def test_a_residual_stream_counts_wherever_it_is_read():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.block = nn.Linear(6, 8), nn.Linear(8, 8)
            self.head = nn.Linear(8, 3)

        def forward(self, x):
            h = torch.relu(self.stem(x))
            return self.head(torch.relu(h + self.block(h)))

    torch.manual_seed(0)
    net = Residual()
    symmetry = discover(net, torch.zeros(2, 6))
    (axis,) = symmetry.axes
    a = Weights.from_module(net)
    found = cross_moments([a, a], symmetry, Landscape(task_of(net, torch.zeros(1, 6))))
    assert len(found[0, 1][axis.name]) == 2


def test_the_same_examples_give_the_same_result_whatever_the_batch():
    one, two = mlp(1), mlp(2)
    symmetry = discover(one, torch.zeros(2, 6))
    task = task_of(one, torch.zeros(1, 6))
    a, b = Weights.from_module(one), Weights.from_module(two)
    found = [match_activations(a, b, symmetry, Landscape(task, batch=n)) for n in (8, 16, 48)]
    assert all(torch.equal(found[0].apply(b).vector, each.apply(b).vector) for each in found[1:])
    again = match_activations(a, b, symmetry, Landscape(task, batch=8))
    assert again == found[0]


def test_what_is_kept_does_not_grow_with_the_examples():
    one = mlp(1)
    symmetry = discover(one, torch.zeros(2, 6))
    a = Weights.from_module(one)
    few, many = (
        cross_moments([a, a], symmetry, Landscape(task_of(one, torch.zeros(1, 6)), batch=8), examples=n)
        for n in (8, 48)
    )
    sizes = [
        sum(m.cross.numel() + m.first.mean.numel() for sites in found[0, 1].values() for m in sites)
        for found in (few, many)
    ]
    assert sizes[0] == sizes[1]


def test_batch_norm_is_measured_for_weights_without_statistics():
    task = digits.cnn()
    symmetry = discover(task.traceable, task.example)
    land = Landscape(task, limit=100, recalibration=100)
    bare = Weights.from_module(task.build(1)).with_buffers({})
    matcher = ActivationMatcher(symmetry, land, examples=200)
    found, settled = (matcher.scores([model, model])[0, 1] for model in (bare, land.settled([bare])))
    for axis in found:
        torch.testing.assert_close(found[axis], settled[axis])


def test_trained_networks_come_closer_than_by_chance():
    """On trained digits networks the midpoint after activation matching is far better than before."""
    import isthmus as im

    task = digits.mlp()
    a, b = (im.train(task, seed=seed, steps=150) for seed in (1, 2))
    symmetry, land = discover(task.traceable, task.example), Landscape(task)
    found = match_activations(a, b, symmetry, land)
    naive, aligned = land.evaluate([(a + b) * 0.5, (a + found.apply(b)) * 0.5]).mean_error
    assert aligned < 0.2 * naive
    assert match_weights(a, b, symmetry).objective > a.dot(found.apply(b)) - 1e-6


def test_the_published_settings_are_settings():
    for statistic, where in PUBLISHED.values():
        ActivationMatcher(discover(mlp(), torch.zeros(2, 6)), None, statistic, where)


def test_unknown_settings_and_foreign_weights_are_refused():
    net = mlp()
    symmetry = discover(net, torch.zeros(2, 6))
    land = Landscape(task_of(net, torch.zeros(1, 6)))
    a = Weights.from_module(net)
    with pytest.raises(SettingError, match="'correlation', 'covariance', 'product', got 'cosine'"):
        match_activations(a, a, symmetry, land, statistic="cosine")
    with pytest.raises(SettingError, match="2 examples at least, got 1"):
        match_activations(a, a, symmetry, land, examples=1)
    with pytest.raises(SymmetryError, match="do not fit"):
        match_activations(a, Weights.from_module(nn.Linear(3, 2)), symmetry, land)


def test_many_models_by_activations_agree_pair_by_pair():
    """Copies in planted orders come to one frame, and the elements compose without drift."""
    net = mlp(3)
    symmetry = discover(net, torch.zeros(2, 6))
    land = Landscape(task_of(net, torch.zeros(1, 6)), batch=16)
    a = Weights.from_module(net)
    planted = [symmetry.random(seeded(seed)) for seed in range(4)]
    models = [g.apply(a) for g in planted]
    found = match_many_activations(models, symmetry, land)
    frame = [g.apply(model).vector for g, model in zip(found, models, strict=True)]
    assert all(torch.equal(frame[0], other) for other in frame[1:])
    ab, bc, ac = (found[j].inverse() @ found[i] for i, j in ((0, 1), (1, 2), (0, 2)))
    assert all(torch.equal(p, ac.permutations[name]) for name, p in (bc @ ab).permutations.items())


def test_narrow_networks_run_in_their_own_dtype():
    net = mlp(3).to(torch.bfloat16)
    inputs = torch.randn(EXAMPLES, 6, generator=seeded(7)).to(torch.bfloat16)
    data = (inputs, torch.zeros(EXAMPLES, dtype=torch.int64))
    symmetry = discover(net, inputs[:2])
    a = Weights.from_module(net)
    planted = symmetry.random(seeded(1))
    land = Landscape(Task(model=net, train=data, test=data), batch=16)
    found = match_activations(a, planted.apply(a), symmetry, land)
    assert torch.equal(found.apply(planted.apply(a)).vector, a.vector)


def test_double_precision_is_kept():
    """Units that vary by 1e-3 about 1e6 would not vary at all in single precision."""
    net = mlp(3).double()
    with torch.no_grad():
        net[0].weight.mul_(1e-3)
        net[0].bias.add_(1e6)
    inputs = torch.randn(EXAMPLES, 6, generator=seeded(7), dtype=torch.float64)
    data = (inputs, torch.zeros(EXAMPLES, dtype=torch.int64))
    symmetry = discover(net, inputs[:2])
    a = Weights.from_module(net)
    land = Landscape(Task(model=net, train=data, test=data))
    scores = ActivationMatcher(symmetry, land).scores([a, a])[0, 1]["0.weight[0]"]
    torch.testing.assert_close(scores.diagonal(), torch.ones(12, dtype=torch.float64), rtol=1e-4, atol=0)


def test_one_example_is_refused():
    net = mlp()
    data = (torch.zeros(1, 6), torch.zeros(1, dtype=torch.int64))
    symmetry = discover(net, torch.zeros(2, 6))
    a = Weights.from_module(net)
    with pytest.raises(DataError, match="needs 2 at least"):
        match_activations(a, a, symmetry, Landscape(Task(model=net, train=data, test=data)))


def test_logits_under_a_mask_do_not_hide_the_heads():
    """A head axis that is seen only in logits with minus infinity in them is matched by the rest of them."""

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.key = (nn.Linear(6, 8) for _ in range(2))
            self.value, self.out = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x):
            q, k, v = (
                f(x).view(*x.shape[:2], 4, 2).transpose(1, 2) for f in (self.query, self.key, self.value)
            )
            logits = q @ k.transpose(-1, -2) + torch.full((5, 5), -torch.inf).triu(1)
            weights = logits.exp()
            mixed = weights / weights.sum(-1, keepdim=True) @ v
            return self.out(mixed.transpose(1, 2).flatten(2)).mean(1)

    net = Masked()
    inputs = torch.randn(EXAMPLES, 5, 6, generator=seeded(7))
    data = (inputs, torch.zeros(EXAMPLES, dtype=torch.int64))
    symmetry = discover(net, inputs[:2])
    a = Weights.from_module(net)
    planted = symmetry.random(seeded(1))
    land = Landscape(Task(model=net, train=data, test=data))
    for statistic in ("correlation", "covariance", "product"):
        found = match_activations(a, planted.apply(a), symmetry, land, statistic=statistic)
        assert torch.equal(found.apply(planted.apply(a)).vector, a.vector)


def test_networks_that_are_broken_are_refused():
    net = mlp()
    symmetry = discover(net, torch.zeros(2, 6))
    land = Landscape(task_of(net, torch.zeros(1, 6)))
    a = Weights.from_module(net)
    with pytest.raises(DataError, match="nowhere finite"):
        match_activations(a, a * torch.nan, symmetry, land)


def test_as_many_examples_are_read_as_are_asked_for():
    net = mlp()
    symmetry = discover(net, torch.zeros(2, 6))
    a = Weights.from_module(net)
    for wanted, read in ((10, 10), (20, 20), (47, 45), (None, EXAMPLES)):
        found = cross_moments(
            [a, a], symmetry, Landscape(task_of(net, torch.zeros(1, 6)), batch=16), examples=wanted
        )
        counts = {moments.first.count for sites in found[0, 1].values() for moments in sites}
        assert counts == {read}
