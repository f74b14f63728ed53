"""Fusion by transport: its laws, at equal and at different widths, and its refusals."""

from collections.abc import Callable
from copy import deepcopy
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from cases import CASES, Calls, ResNet, found
from isthmus import Weights
from isthmus.errors import DataError, SettingError, SymmetryError
from isthmus.merge.fusion import averaged, fuse, require_same_structure, transport_map
from isthmus.merge.grounds import importance
from isthmus.merge.prune import narrowed, prune_by_fusion
from isthmus.merge.roles import roles_of
from isthmus.merge.softmap import SoftMap
from isthmus.network import Network
from isthmus.seeds import seeded
from isthmus.symmetry import Alignment, Axis, discover
from isthmus.tasks.transformer import Transformer
from zoo_sequences import SEQUENCES

IMAGES = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
TOKENS = torch.randint(11, (2, 6), generator=torch.Generator().manual_seed(1))
ROWS = torch.randn(3, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def mlp(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(7, width), nn.ReLU(), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, 5)
    )


def cnn(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 2 * width, 3),
        nn.SiLU(), nn.Flatten(), nn.Linear(18 * width, width), nn.Tanh(), nn.Linear(width, 4),
    )  # fmt: skip


def resnet(width: int) -> nn.Module:
    return ResNet(width, 1, "B")


def padded_resnet(width: int) -> nn.Module:
    return ResNet(width, 1, "A")


def group_norm(width: int) -> nn.Module:
    head = Calls(lambda m, x: m.head(x.mean((2, 3))), head=nn.Linear(width, 3))
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.GroupNorm(width // 2, width), nn.ReLU(), head)


def grouped_convolution(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, width, 1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, width, 3, groups=width // 2), nn.ReLU(), nn.Conv2d(width, 5, 1), nn.Flatten(),
    )  # fmt: skip


def more_heads(width: int) -> nn.Module:
    return Transformer(11, 6, width, width // 4, 1)


def larger_heads(width: int) -> nn.Module:
    return Transformer(11, 6, width, 3, 1)


def joined_attention(width: int) -> nn.Module:
    """Queries, keys and values in one matrix, whose rows are split."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.embed(x)
        return m.head(x + m.attention(x, x, x, need_weights=False)[0])

    attention = nn.MultiheadAttention(width, width // 4, batch_first=True)
    return Calls(forward, embed=nn.Linear(7, width), attention=attention, head=nn.Linear(width, 3))


NETWORKS = {
    "mlp": (mlp, 6, ROWS),
    "cnn": (cnn, 4, IMAGES),
    "resnet": (resnet, 4, IMAGES),
    "padded_resnet": (padded_resnet, 4, IMAGES),
    "group_norm": (group_norm, 6, IMAGES),
    "grouped_convolution": (grouped_convolution, 6, IMAGES),
    "more_heads": (more_heads, 12, TOKENS),
    "larger_heads": (larger_heads, 12, TOKENS),
    "joined_attention": (joined_attention, 8, torch.randn(2, 5, 7, dtype=torch.float64)),
}
each_network = pytest.mark.parametrize("name", NETWORKS)


def general(module: nn.Module, seed: int) -> nn.Module:
    """Weights and statistics in general position, in float64."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.3 * torch.randn(buffer.shape, generator=generator))
            if name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return module.double().eval()


def outputs(module: nn.Module, weights: Weights, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return weights.to_module(deepcopy(module))(inputs)


def close(first: Tensor, second: Tensor) -> None:
    torch.testing.assert_close(first, second, rtol=1e-11, atol=1e-11)


def copies(units: int, images: int) -> Tensor:
    """Every unit copied equally often."""
    return torch.eye(units, dtype=torch.float64).repeat_interleave(images // units, 1) / images


def copying(old: Axis, new: Axis, plans: dict[str, Tensor]) -> Tensor:
    """Every unit copied equally often within the copies of its parent."""
    if not old.parents:
        return copies(old.size, new.size)
    (name, at), (_, to) = old.parents[0], new.parents[0]
    plan = torch.zeros(old.size, new.size, dtype=torch.float64)
    for p, q in (plans[name] > 0).nonzero().tolist():
        units, images = (at == p).nonzero()[:, 0], (to == q).nonzero()[:, 0]
        plan[units[:, None], images] = plans[name][p, q] * copies(len(units), len(images))
    return plan


class Widened:
    """A narrow network, and a wide one whose units are copies of its units."""

    def __init__(self, name: str) -> None:
        build, width, self.inputs = NETWORKS[name]
        self.narrow, self.wide = general(build(width), 0), general(build(2 * width), 1)
        source, target = discover(self.narrow, self.inputs), discover(self.wide, self.inputs)
        plans: dict[str, Tensor] = {}
        for old, new in zip(source.axes, target.axes, strict=True):
            plans[old.name] = copying(old, new, plans)
        self.soft = SoftMap(source, target, plans, {}, roles_of(self.wide, self.inputs, target))
        self.a = Weights.from_module(self.narrow)
        self.b = self.soft.apply(self.a)
        self.expected = outputs(self.narrow, self.a, self.inputs)


widened = cache(Widened)


@each_network
def test_copied_units_keep_the_function(name: str) -> None:
    case = widened(name)
    close(outputs(case.wide, case.b, case.inputs), case.expected)


def test_widening_agrees_with_a_widening_written_by_hand() -> None:
    case = widened("mlp")
    first, second, third = (case.a[f"{k}.weight"] for k in (0, 2, 4))
    twice = [first.repeat_interleave(2, 0), second.repeat_interleave(2, 0).repeat_interleave(2, 1) / 2]
    close(case.b["0.weight"], twice[0])
    close(case.b["2.weight"], twice[1])
    close(case.b["4.weight"], third.repeat_interleave(2, 1) / 2)
    close(case.b["2.bias"], case.a["2.bias"].repeat_interleave(2))


@each_network
def test_fusing_a_network_with_its_own_widening_changes_nothing(name: str) -> None:
    case = widened(name)
    up = fuse(case.a, case.b, case.narrow, case.wide, case.inputs, share=0.3)
    close(outputs(case.wide, up, case.inputs), case.expected)
    down = fuse(case.b, case.a, case.wide, case.narrow, case.inputs, share=0.3)
    close(outputs(case.narrow, down, case.inputs), case.expected)
    close(down.vector, case.a.vector)


@pytest.mark.parametrize("name", ["cnn", "more_heads"])
@pytest.mark.parametrize("settings", [{"cost": "activations"}, {"sweeps": 1}], ids=["activations", "sweeps"])
def test_copies_are_found_in_other_ways_too(name: str, settings: dict) -> None:
    case = widened(name)
    if "cost" in settings:
        settings = {**settings, "data": case.inputs}
    soft = transport_map(case.a, case.b, case.narrow, case.wide, case.inputs, **settings)
    close(outputs(case.wide, soft.apply(case.a), case.inputs), case.expected)


def test_the_published_map_scales_what_comes_in_by_the_widths() -> None:
    case = widened("mlp")
    soft = transport_map(case.a, case.b, case.narrow, case.wide, case.inputs, incoming="published")
    wide = soft.apply(case.a)
    close(wide["4.weight"], 2 * case.b["4.weight"])
    assert (outputs(case.wide, wide, case.inputs) - case.expected).abs().max() > 0.1


PLANTED = [
    "mlp", "cnn_flatten", "resnet_projection", "attention", "grouped_convolution",
    "dense", "gated", "recurrent", "tied_autoencoder", "mixed_pinning", "depth_multiplier",
]  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_reordering_is_found_and_is_a_group_element(name: str) -> None:
    case, symmetry = CASES[name], found(name)
    module = case.module()
    a = Weights.from_module(module)
    planted = symmetry.random(seeded(3, name))
    b = planted.apply(a)
    soft = transport_map(a, b, module, module, case.example())
    element = soft.alignment
    assert isinstance(element, Alignment)
    carried = soft.apply(a)
    assert carried.equal(element.apply(a))  # statistics, too
    assert carried.equal(b)
    fused = averaged(carried, b)
    torch.testing.assert_close(fused.vector, b.vector)
    assert all(torch.equal(fused.buffers[n], b.buffers[n]) for n in b.buffers)


@pytest.mark.parametrize("name", ["experts_all", "lstm"])
def test_units_of_stacks_and_of_recurrent_layers_are_found(name: str) -> None:
    case = next(case for case in SEQUENCES if case.name == name)
    module = case.module()
    a = Weights.from_module(module)
    b = discover(module, case.example()).random(seeded(3, name)).apply(a)
    soft = transport_map(a, b, module, module, case.example())
    assert soft.alignment is not None
    assert soft.apply(a).equal(b)


@each_network
def test_equal_widths_and_uniform_marginals_give_a_group_element(name: str) -> None:
    build, width, inputs = NETWORKS[name]
    one, two = general(build(width), 0), general(build(width), 1)
    a, b = Weights.from_module(one), Weights.from_module(two)
    soft = transport_map(a, b, one, two, inputs)
    assert soft.alignment is not None
    carried = soft.apply(a)
    assert carried.equal(soft.alignment.apply(a))
    close(outputs(one, carried, inputs), outputs(one, a, inputs))


def test_the_plan_of_one_hidden_layer_is_the_best_assignment_of_all_its_slices() -> None:
    """With inputs and outputs pinned, all places of the axis count at once."""
    from scipy.optimize import linear_sum_assignment

    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 9), nn.Tanh(), nn.Linear(9, 2))

    one, two = general(build(), 0), general(build(), 1)
    a, b = Weights.from_module(one), Weights.from_module(two)
    units = [torch.cat([w["0.weight"], w["0.bias"][:, None], w["2.weight"].T], 1) for w in (a, b)]
    rows, columns = linear_sum_assignment((torch.cdist(*units) ** 2).numpy())
    element = transport_map(a, b, one, two, torch.zeros(2, 3).double()).alignment
    assert element is not None
    assert element.permutations["0.weight[0]"][columns].tolist() == rows.tolist()


def test_a_layer_is_compared_after_what_comes_in_was_carried() -> None:
    """B has A's units in another order in layer 1 alone, and layer 2 must see that."""
    module = general(mlp(5), 0)
    symmetry = discover(module, ROWS)
    a = Weights.from_module(module)
    moved = symmetry.identity().permutations | {"0.weight[0]": torch.tensor([4, 2, 0, 1, 3])}
    b = Alignment(symmetry, moved).apply(a)
    element = transport_map(a, b, module, module, ROWS).alignment
    assert element is not None
    assert torch.equal(element.permutations["2.weight[0]"], torch.arange(10))


def test_importance_gives_every_unit_its_share_and_convex_mixes() -> None:
    one, two = general(mlp(6), 0), general(mlp(4), 1)
    a, b = Weights.from_module(one), Weights.from_module(two)
    for settings in ({}, {"cost": "activations", "data": ROWS}):
        soft = transport_map(a, b, one, two, ROWS, marginals="importance", **settings)
        for name, plan in soft.plans.items():
            assert plan.sum().item() == pytest.approx(1)
            assert bool((plan.sum(1) > 0).all())
            if not settings:
                expected = importance(a, soft.source)[name]
                close(plan.sum(1), expected / expected.sum())
        low, high = a["0.bias"].aminmax()
        carried = soft.apply(a)["0.bias"]
        assert low <= carried.min() <= carried.max() <= high
        assert soft.alignment is None


def test_entropic_plans_mix() -> None:
    one, two = general(mlp(6), 0), general(mlp(6), 1)
    a, b = Weights.from_module(one), Weights.from_module(two)
    soft = transport_map(a, b, one, two, ROWS, plan="sinkhorn", regularisation=1e3)
    assert soft.alignment is None
    torch.testing.assert_close(
        soft.apply(a)["0.weight"], a["0.weight"].mean(0).expand(6, -1), rtol=0, atol=1e-3
    )


def test_the_share_is_bs() -> None:
    one, two = general(cnn(4), 0), general(cnn(6), 1)
    a, b = Weights.from_module(one), Weights.from_module(two)
    carried = transport_map(a, b, one, two, IMAGES).apply(a)
    assert fuse(a, b, one, two, IMAGES, share=1).equal(b)
    close(fuse(a, b, one, two, IMAGES, share=0).vector, carried.vector)
    quarter = fuse(a, b, Network(one), Network(two), IMAGES, share=0.25)
    close(quarter.vector, 0.75 * carried.vector + 0.25 * b.vector)
    name = "1.running_var"
    close(quarter.buffers[name], 0.75 * carried.buffers[name] + 0.25 * b.buffers[name])
    assert quarter.layout == b.layout


def test_tied_parameters_are_mixed_and_named() -> None:
    module = CASES["tied_autoencoder"].module()
    a = Weights.from_module(module)
    soft = transport_map(a, a, module, module, CASES["tied_autoencoder"].example())
    assert soft.tied == ("encode.weight",)
    assert not soft.outgoing("encode.weight", 0)


def test_roles_of_weights() -> None:
    module = general(larger_heads(12), 0)
    roles = roles_of(module, TOKENS, discover(module, TOKENS))
    summed = {
        f"blocks.0.{n}.weight"
        for n in ("up", "down", *(f"attention.{k}" for k in ("query", "key", "value", "output")))
    }
    assert roles.summed == {(name, 1) for name in {*summed, "head.weight"}}
    assert roles.paired == {"blocks.0.attention.query.weight[0]"}
    assert roles.tied == frozenset()


def test_the_same_call_gives_the_same_bits() -> None:
    one, two = general(mlp(4), 0), general(mlp(6), 1)
    a, b = Weights.from_module(one), Weights.from_module(two)
    first, second = (fuse(a, b, one, two, ROWS, plan="sinkhorn") for _ in range(2))
    assert first.equal(second)


def test_a_narrowed_network_keeps_the_units_with_the_largest_norms() -> None:
    wide, thin = general(mlp(6), 0), general(mlp(3), 1)
    a = Weights.from_module(wide)
    small = narrowed(a, wide, thin, ROWS)
    norms = (a["0.weight"] ** 2).sum(1) + a["0.bias"] ** 2 + (a["2.weight"] ** 2).sum(0)
    kept = norms.argsort(descending=True)[:3].sort().values
    assert torch.equal(small["0.weight"], a["0.weight"][kept])
    assert small["4.weight"].shape == (5, 6)
    plain = prune_by_fusion(a, wide, thin, ROWS, share=1.0)
    assert torch.equal(plain.vector, small.vector)


def test_heads_are_pruned_as_a_whole() -> None:
    wide, thin = general(joined_attention(16), 0), general(joined_attention(8), 1)
    inputs = NETWORKS["joined_attention"][2]
    a = Weights.from_module(wide)
    small = narrowed(a, wide, thin, inputs)
    rows = small["attention.in_proj_bias"][:8]
    found = (a["attention.in_proj_bias"][:16, None] == rows).nonzero()[:, 0]
    assert len(found) == 8
    assert len({*(found // 4).tolist()}) == 2
    fused = prune_by_fusion(a, wide, thin, inputs)
    assert outputs(thin, fused, inputs).isfinite().all()


def test_pruning_dead_units_keeps_the_function() -> None:
    wide, thin = general(mlp(6), 0), general(mlp(3), 1)
    a = Weights.from_module(wide)
    for layer, units in (("0", [0, 2, 3]), ("2", [1, 2, 5, 6, 8, 9])):
        a[f"{layer}.weight"][units] = 0
        a[f"{layer}.bias"][units] = 0
        a[f"{int(layer) + 2}.weight"][:, units] = 0
    small = prune_by_fusion(a, wide, thin, ROWS, share=1.0)
    close(outputs(thin, small, ROWS), outputs(wide, a, ROWS))


def refused(build_a: Callable[[], nn.Module], build_b: Callable[[], nn.Module], inputs: Tensor) -> str:
    one, two = general(build_a(), 0), general(build_b(), 1)
    with pytest.raises(SymmetryError) as told:
        fuse(Weights.from_module(one), Weights.from_module(two), one, two, inputs)
    return str(told.value)


def test_other_structures_are_refused_by_their_first_difference() -> None:
    def deeper() -> nn.Module:
        return nn.Sequential(*mlp(4)[:4], nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5))

    def classes() -> nn.Module:
        return nn.Sequential(*mlp(4)[:4], nn.Linear(8, 3))

    def straight() -> nn.Module:
        return Calls(lambda m, x: m.two(torch.relu(m.one(x))), one=nn.Linear(7, 4), two=nn.Linear(4, 7))

    def stream() -> nn.Module:
        return Calls(lambda m, x: m.two(m.one(x) + x), one=nn.Linear(7, 7), two=nn.Linear(7, 7))

    assert refused(lambda: mlp(4), deeper, ROWS).endswith(
        "where A has no further one, B has the parameter 6.weight"
    )
    assert "4.weight[0] has 5 in A and 3 in B" in refused(lambda: mlp(4), classes, ROWS)
    assert "the axis one.weight[0] of hidden units, B has no further axis" in refused(straight, stream, ROWS)
    larger = torch.zeros(2, 3, 6, 6).double()
    one, two = discover(general(cnn(4), 0), IMAGES), None
    module = nn.Sequential(*cnn(4)[:6], nn.Linear(32 * 4, 4), nn.Tanh(), nn.Linear(4, 4))
    two = discover(general(module, 0), larger)
    with pytest.raises(SymmetryError, match="takes 9 positions of 6"):
        require_same_structure(one, two)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"share": 1.5}, r"share of B must lie in \[0, 1\], got 1.5"),
        ({"plan": "greedy"}, "the plan must be one of"),
        ({"regularisation": -1.0}, "must be above 0"),
        ({"cost": "gradients"}, "cost must be one of 'weights', 'activations', got 'gradients'"),
        ({"marginals": "none"}, "marginals must be one of"),
        ({"incoming": "none"}, "incoming must be one of"),
        ({"sweeps": -1}, "sweeps must be 0 or more"),
        ({"cost": "activations"}, "needs data"),
    ],
)
def test_settings_outside_their_range_are_refused(settings: dict, told: str) -> None:
    module = general(mlp(3), 0)
    a = Weights.from_module(module)
    with pytest.raises(SettingError, match=told):
        fuse(a, a, module, module, ROWS, **settings)


def test_weights_and_data_that_do_not_fit_are_refused() -> None:
    module, other = general(mlp(3), 0), general(mlp(4), 0)
    a = Weights.from_module(module)
    with pytest.raises(SymmetryError, match="do not fit"):
        fuse(Weights.from_module(other), a, module, module, ROWS)
    with pytest.raises(DataError, match="one number of examples"):
        fuse(a, a, module, module, ROWS, cost="activations", data=(ROWS, ROWS[:2]))
    with pytest.raises(DataError, match="at least one example"):
        fuse(a, a, module, module, ROWS, cost="activations", data=ROWS[:0])
    with pytest.raises(SettingError, match="more than the"):
        narrowed(a, module, other, ROWS)


def test_a_soft_map_is_no_group_element() -> None:
    case = widened("mlp")
    assert not isinstance(case.soft, Alignment)
    assert not hasattr(case.soft, "inverse")
    assert not hasattr(case.soft, "__matmul__")
    assert repr(case.soft) == "SoftMap(0.weight[0]: 6 → 12, 2.weight[0]: 12 → 24)"
