"""Symmetries: sound on every network, complete where a formula is known, and honest about the rest."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from adversarial import ADVERSARIAL
from cases import CASES, Calls, Case, L, ResNet, each_case, found
from isthmus.errors import SettingError, SymmetryError, SymmetryWarning
from isthmus.symmetry import AbstractGroup, Alignment, Axis, Symmetry, discover
from isthmus.symmetry.action import Place, members_of
from isthmus.symmetry.labels import Label, along, constant
from isthmus.symmetry.rules import Call, arithmetic, unknown
from isthmus.symmetry.units import Units
from isthmus.symmetry.verify import Probe, elements, failing, verify
from isthmus.weights import Weights
from zoo_laws import assert_group, assert_saved, assert_sound, seeded


@torch.no_grad()
def outputs_of(module: nn.Module, weights: Weights, example):
    return weights.to_module(module)(example)


# -- the zoo --------------------------------------------------------------------------------------


@each_case
def test_a_random_element_leaves_the_function_as_it_is(name):
    assert_sound(found(name), CASES[name].module(), CASES[name].example())


@each_case
def test_the_group_has_the_order_written_by_hand(name):
    assert found(name).log2_order == pytest.approx(CASES[name].log2_order, abs=1e-9)


@each_case
def test_nothing_had_to_be_pinned_by_verification_and_every_control_fires(name):
    proof = found(name).verification
    assert proof.passed
    assert proof.failed == ()
    assert proof.tolerance == 1e-9
    assert proof.powerless == ()
    assert len(proof.controls) == min(len(found(name).axes), 4)


# A bias of the keys adds one number to all scores of a query, which softmax takes away; so does a norm with a
# bias before it.
WITHOUT_EFFECT = {("attention", "k.bias"), ("conv1d", "0.bias")}


@each_case
def test_leaving_out_any_one_parameter_changes_the_outputs(name):
    """The control for every parameter, not only for the largest of an axis."""
    symmetry, module = found(name), CASES[name].module().double()
    example, weights = CASES[name].example().double(), Weights.from_module(module)
    moved = symmetry.random(seeded(5)).apply(weights)
    before = outputs_of(module, weights, example)
    for parameter in weights:
        if torch.equal(moved[parameter], weights[parameter]) or (name, parameter) in WITHOUT_EFFECT:
            continue
        broken = moved.vector.clone()
        position = weights.layout.index[parameter]
        weights.layout.view(broken, position).copy_(weights[parameter])
        after = outputs_of(module, Weights(weights.layout, broken, moved.buffers), example)
        assert float((after - before).abs().max()) > 1e-7 * float(before.abs().max()), parameter


@each_case
def test_group_laws(name):
    assert_group(found(name), Weights.from_module(CASES[name].module()))


@each_case
def test_saved_symmetries_and_alignments_load_back_equal(name):
    assert_saved(found(name), Weights.from_module(CASES[name].module()))


# -- adversarial networks -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_adversarial_networks_are_sound(name):
    build, log2_order = ADVERSARIAL[name]
    case = Case(name, build, (5, 6), 0.0)
    symmetry = discover(case.module(), case.example())
    assert symmetry.verification.passed
    if log2_order is not None:
        assert symmetry.log2_order == pytest.approx(log2_order, abs=1e-9)
    if name != "random mask":
        assert_sound(symmetry, case.module(), case.example())


@pytest.mark.parametrize("seed", range(12))
def test_randomly_composed_networks_are_sound(seed):
    generator = seeded(seed)

    def pick(number: int) -> int:
        return int(torch.randint(number, (), generator=generator))

    steps = [pick(9) for _ in range(6)]
    rolls = [pick(8) for _ in steps]
    case = Case("random", lambda: composed(steps, rolls), (3, 5), 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        symmetry = discover(case.module(), case.example())
    assert symmetry.verification.passed
    assert_sound(symmetry, case.module(), case.example())


def composed(steps: list[int], shifts: list[int]) -> nn.Module:
    """A chain of random operations on eight hidden units, each with a skip to an earlier state."""

    def forward(m, x):
        h = m.first(x)
        kept = h
        for number, (step, shift) in enumerate(zip(steps, shifts, strict=True)):
            linear, norm = m.linears[number], m.norms[number]
            h = [
                lambda h: torch.tanh(linear(h)),  # noqa: B023
                lambda h: h + kept,  # noqa: B023
                lambda h: norm(h),  # noqa: B023
                lambda h: h.roll(shift, 1),  # noqa: B023
                lambda h: torch.cat([h[:, :shift], kept[:, shift:]], 1),  # noqa: B023
                lambda h: h * h.softmax(1),
                lambda h: h.view(-1, 2, 4).transpose(1, 2).reshape(-1, 8),
                lambda h: torch.cat([h[:, 4:], torch.sigmoid(h[:, :4])], 1),
                lambda h: h * h[:, :4].mean(1, keepdim=True),
            ][step](h)
            kept = h if number % 2 else kept
        return m.head(h)

    module = Calls(forward, first=nn.Linear(5, 8), head=nn.Linear(8, 3))
    module.linears = nn.ModuleList(nn.Linear(8, 8) for _ in steps)
    module.norms = nn.ModuleList(nn.GroupNorm(2, 8) for _ in steps)
    return module


# -- what it says ---------------------------------------------------------------------------------


def test_the_order_of_a_wide_mlp():
    net = nn.Sequential(
        nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    )  # fmt: skip
    symmetry = discover(net, torch.zeros(1, 784))
    assert symmetry.log2_order == pytest.approx(2 * L(128), abs=1e-9)
    assert [axis.name for axis in symmetry.axes] == ["0.weight[0]", "2.weight[0]"]
    assert symmetry.coverage == pytest.approx(1 - 10 / Weights.from_module(net).layout.numel)


def test_resnet_56_with_parameter_free_shortcuts():
    symmetry = discover(ResNet(16, 9, "A"), torch.zeros(1, 3, 32, 32))
    expected = 2 * L(16) + L(32) + 9 * (L(16) + L(32) + L(64))
    assert symmetry.log2_order == pytest.approx(expected, abs=1e-6)
    assert symmetry.verification.passed


def test_an_axis_names_its_places_its_size_and_its_buffers():
    (first, *_) = found("cnn_flatten").axes
    assert first.name == "0.weight[0]"
    assert (first.size, first.free, first.fixed, first.parent) == (6, 6, 0, None)
    places = {(place.parameter, place.dim) for place in first.places}
    assert places == {
        ("0.weight", 0), ("0.bias", 0), ("1.weight", 0), ("1.bias", 0), ("1.running_mean", 0),
        ("1.running_var", 0), ("4.weight", 1),
    }  # fmt: skip
    flat = next(p for axis in found("cnn_flatten").axes for p in axis.places if p.parameter == "7.weight")
    assert flat.index.shape == (8, 4)


def test_groups_are_parents_of_their_channels():
    symmetry = found("group_norm")
    channels = next(axis for axis in symmetry.axes if axis.name == "conv.weight[0]")
    groups = next(axis for axis in symmetry.axes if axis.name == channels.parent)
    assert (groups.size, channels.size, channels.free) == (4, 8, 8)
    assert channels.parents[0][1].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    permutation = symmetry.random(seeded(0)).permutations[channels.name].view(4, 2)
    assert torch.equal(permutation[:, 0] // 2, permutation[:, 1] // 2)


def test_pinned_axes_say_why():
    symmetry = found("cnn_flatten")
    assert "the input" in symmetry.explain("0.weight", 1)
    assert "places in the kernel" in symmetry.explain("0.weight", 2)
    assert symmetry.explain("9.bias", -1) == "pinned: the output output: its units have an order"
    assert symmetry.explain("0.bias", 0) == "6 places carry units of 0.weight[0]"
    mixed = found("mixed_pinning").explain("two.weight", 1)
    assert mixed.startswith("6 places carry units of one.weight[0]; pinned: 4 of 10 units: ")
    assert "told apart by the input" in mixed
    with pytest.raises(SymmetryError, match=r"there is no axis 1 of a parameter '0.bias'"):
        symmetry.explain("0.bias", 1)


def test_units_beside_an_axis_count_as_fixed():
    (axis,) = found("mixed_pinning").axes
    place = next(place for place in axis.places if place.parameter == "two.weight")
    assert place.index.flatten().tolist() == [4, 5, 6, 7, 8, 9]


def test_an_unknown_operation_pins_what_feeds_it_and_is_named():
    module = Calls(
        lambda m, x: m.two(m.one(x).relu()) + m.three(m.one(x).cummax(1).values),
        one=nn.Linear(4, 6), two=nn.Linear(6, 2), three=nn.Linear(6, 2),
    )  # fmt: skip
    symmetry = discover(module, torch.randn(3, 4))
    assert symmetry.axes == ()
    assert "cummax" in symmetry.explain("one.weight", 0)
    assert "there is no rule for this operation" in symmetry.explain("one.weight", 0)


def test_the_caller_may_add_a_rule():
    module = Case("", ADVERSARIAL["cumulative sum"][0], (5, 6), 0.0).module()
    example = torch.randn(5, 6)

    def along_batch(call: Call):
        assert call["dim"] == 1
        return unknown(call)

    assert discover(module, example, rules={"aten::cumsum": along_batch}).log2_order == 0
    assert discover(module, example).log2_order == 0


def test_a_wrong_rule_is_caught_by_verification_and_named():
    module = Case("", ADVERSARIAL["cumulative sum"][0], (5, 6), 0.0).module()
    with pytest.warns(SymmetryWarning, match=r"moving first\.weight\[0\] changed the outputs"):
        symmetry = discover(module, torch.randn(5, 6), rules={"aten::cumsum": arithmetic.elementwise})
    assert symmetry.axes == ()
    assert symmetry.verification.failed == ("first.weight[0]",)
    assert not symmetry.verification.passed
    assert symmetry.pinned["first.weight", 0] == "moving it changed the outputs"


def test_a_rule_that_fails_pins_instead_of_guessing():
    def broken(call: Call):
        raise ValueError("no such thing")

    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    symmetry = discover(module, torch.zeros(1, 3), rules={"aten::tanh": broken})
    assert symmetry.axes == ()
    assert "ValueError in its rule: no such thing" in symmetry.explain("0.weight", 0)


def test_a_control_without_power_is_reported():
    module = Calls(
        lambda m, x: m.head(x) + 0.0 * m.dead(torch.tanh(m.first(x))),
        head=nn.Linear(4, 2), first=nn.Linear(4, 5), dead=nn.Linear(5, 2),
    )  # fmt: skip
    proof = discover(module, torch.randn(3, 4)).verification
    assert proof.powerless == ("first.weight[0]",)
    assert proof.passed


# A wrong group is split or made by hand, so that no rule has to be wrong: only the proof can find it.


def mlp_of_two() -> nn.Module:
    return Case("", lambda: nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 3)), (4, 3), 0.0).module()


def swapping_by(name: str, *places: tuple[str, int]) -> Axis:
    found_places = tuple(Place(p, dim, torch.tensor([[0], [1]])) for p, dim in places)
    return Axis(name, 2, found_places, (), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("part", [0, 1])
def test_a_wrong_axis_of_two_units_is_caught_whatever_the_seed(seed, part):
    """A random element leaves it where it is every other time."""
    axis = swapping_by("wrong", (("0.weight", 0), ("2.weight", 1))[part])
    proof = verify(Probe(mlp_of_two(), torch.randn(4, 3), None, seed), (axis,))
    assert proof.error > 1e-3
    assert not proof.passed
    assert proof.unmoved == ()


@pytest.mark.parametrize("seed", range(20))
def test_a_tie_between_two_axes_that_is_missing_is_caught_whatever_the_seed(seed):
    """Both moved together, or neither, leave the function as it is."""
    rows = swapping_by("rows", ("0.weight", 0), ("0.bias", 0))
    columns = swapping_by("columns", ("2.weight", 1))
    probe = Probe(mlp_of_two(), torch.randn(4, 3), None, seed)
    assert not verify(probe, (rows, columns)).passed
    assert failing(probe, (rows, columns)) == ["rows", "columns"]
    both = swapping_by("both", ("0.weight", 0), ("0.bias", 0), ("2.weight", 1))
    assert verify(probe, (both,)).passed


@pytest.mark.parametrize("seed", range(10))
def test_cells_that_may_only_move_together_are_told_from_cells_that_may_move_alone(seed):
    """Two heads of two units, whose inner order is one for both."""
    module = Calls(
        lambda m, x: (m.q(x).view(-1, 2, 2) @ m.k.weight).flatten(1) ** 2,
        q=nn.Linear(3, 4), k=nn.Linear(2, 2),
    )  # fmt: skip
    places = (Place("q.weight", 0, torch.arange(4)[:, None]), Place("q.bias", 0, torch.arange(4)[:, None]))
    inner = Axis("inner", 4, places, (), torch.tensor([0, 0, 1, 1]))
    shared = swapping_by("shared", ("k.weight", 0))
    probe = Probe(module, torch.randn(4, 3), None, seed)
    assert not verify(probe, (inner, shared)).passed
    together = Axis(
        "together", 2,
        (
            *(Place(p.parameter, 0, torch.tensor([[0, 2], [1, 3]])) for p in places),
            Place("k.weight", 0, torch.tensor([[0], [1]])),
        ),
        (), torch.zeros(2, dtype=torch.int64),
    )  # fmt: skip
    assert verify(probe, (together,)).passed


@pytest.mark.parametrize("width", [3, 4, 6])
def test_a_cyclic_group_is_not_taken_for_all_permutations(width):
    module = Calls(
        lambda m, x: ((h := m.first(x).tanh()) * h.roll(1, 1) ** 2).sum(1), first=nn.Linear(3, width)
    )
    with pytest.warns(SymmetryWarning, match=r"moving first\.weight\[0\] changed the outputs"):
        symmetry = discover(module, torch.randn(4, 3), rules={"aten::roll": arithmetic.elementwise})
    assert symmetry.axes == ()


def test_an_axis_that_no_element_moves_is_listed():
    still = Axis("still", 2, (Place("0.weight", 0, torch.tensor([[0], [1]])),), (), torch.tensor([0, 1]))
    proof = verify(Probe(mlp_of_two(), torch.randn(4, 3), None, 0), (still,))
    assert proof.unmoved == ("still",)
    assert proof.error == 0
    assert not proof.passed


@each_case
def test_the_elements_of_the_proof_move_every_cell_and_move_every_two_apart(name):
    axes = found(name).axes
    tried = list(elements(axes, seeded(0)))
    for axis in axes:
        assert any(not torch.equal(element[axis.name], torch.arange(axis.size)) for element in tried)
    moved = [
        tuple(tuple(element[axis.name][cell].argsort().tolist()) for element in tried)
        for axis in axes
        if not axis.parents
        for cell in members_of(axis)
        if cell.numel() > 1
    ]
    assert len(set(moved)) == len(moved)


@pytest.mark.parametrize("step", [lambda n: n.add_(1.0), None])
def test_buffers_that_the_forward_pass_changes_raise_no_false_alarm(step):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(3, 4), nn.Linear(4, 2)
            self.register_buffer("n", torch.ones(()))
            self.register_buffer("places", torch.arange(2).expand(3, 2))

        def forward(self, x):
            if step is None:
                self.n = self.n + 1
            else:
                step(self.n)
            return self.two(torch.tanh(self.one(x))) * self.n + self.places[:2]

    symmetry = discover(Counting(), torch.randn(2, 3))
    assert symmetry.log2_order == pytest.approx(L(4))
    assert symmetry.verification.passed


@pytest.mark.parametrize("pad", [nn.ReflectionPad2d, nn.ReplicationPad2d, nn.CircularPad2d, nn.ZeroPad2d])
def test_padded_channels_may_move(pad):
    net = nn.Sequential(nn.Conv2d(3, 6, 3), pad(1), nn.Tanh(), nn.Conv2d(6, 2, 3))
    assert discover(net, torch.randn(1, 3, 6, 6)).log2_order == pytest.approx(L(6))


def test_labels_that_lie_deep_in_the_arguments_are_pinned_too():
    units = Units()
    label = Label((along(units.fresh(4), (4,), 0),), constant((4,)))
    call = Call(units, "aten::odd", print, {"a": [[label], {"b": (label,)}]}, ((4,),), frozenset({0}), "odd")
    assert call.labels == [label, label]
    unknown(call)
    assert len(units.marks) == 2


def test_a_shape_that_data_decide_pins_with_a_reason():
    build, _ = ADVERSARIAL["data decide a shape"]
    symmetry = discover(build(), torch.randn(5, 6))
    assert "it gives a tensor whose shape depends on data" in symmetry.explain("first.weight", 0)


def test_symmetries_are_saved_into_folders_that_do_not_exist_yet(tmp_path):
    found("mlp").save(tmp_path / "new" / "symmetry.json")
    assert Symmetry.load(tmp_path / "new" / "symmetry.json").verification == found("mlp").verification
    with pytest.raises(SettingError, match="is a folder"):
        found("mlp").save(tmp_path / "new")


def test_symmetric_initialisation_does_not_hide_a_broken_symmetry():
    module = Case("", ADVERSARIAL["cumulative sum"][0], (5, 6), 0.0).build()
    for parameter in module.first.parameters():
        nn.init.constant_(parameter, 0.5)
    nn.init.zeros_(module.head.weight)
    with pytest.warns(SymmetryWarning, match="changed the outputs"):
        discover(module, torch.randn(5, 6), rules={"aten::cumsum": arithmetic.elementwise})


def test_casts_to_single_precision_are_widened_for_the_proof():
    module = Calls(lambda m, x: m.two(torch.tanh(m.one(x)).float()), one=nn.Linear(4, 6), two=nn.Linear(6, 2))
    proof = discover(module, torch.randn(3, 4)).verification
    assert proof.tolerance == 1e-9
    assert proof.passed


def test_a_model_that_gives_single_precision_whatever_happens_is_verified_with_a_stated_tolerance():
    def narrow(m, x):
        y = m.two(torch.tanh(m.one(x)))
        return y.new_empty(y.shape, dtype=torch.int32).view(torch.float32).copy_(y)

    module = Calls(narrow, one=nn.Linear(4, 6), two=nn.Linear(6, 2))
    proof = discover(module, torch.randn(3, 4)).verification
    assert proof.tolerance == 1e-5


def test_verification_can_be_repeated_and_left_out():
    case = CASES["mlp"]
    symmetry = discover(case.module(), case.example(), verify=False)
    assert symmetry.verification is None
    proof = symmetry.verify(case.module(3), case.example(4))
    assert proof.passed
    assert [control.axis for control in proof.controls] == [axis.name for axis in symmetry.axes]
    wrong = replace(found("mixed_pinning"), axes=(swapping_inputs(),))
    proof = wrong.verify(CASES["mixed_pinning"].module(), CASES["mixed_pinning"].example())
    assert not proof.passed


def swapping_inputs():
    (axis,) = found("mixed_pinning").axes
    place = replace(axis.places[0], parameter="one.weight", dim=1, index=torch.tensor([[0], [1]]))
    return replace(axis, name="inputs", size=2, places=(place,), cells=torch.zeros(2, dtype=torch.int64))


# -- random elements ------------------------------------------------------------------------------


@pytest.mark.parametrize(("module", "order"), [(None, 6), (nn.GroupNorm(2, 4), 8)])
def test_random_elements_are_uniform(module, order):
    width = 3 if module is None else 4
    net = nn.Sequential(nn.Linear(2, width), module or nn.ReLU(), nn.Tanh(), nn.Linear(width, 1))
    symmetry = discover(net, torch.zeros(2, 2))
    assert round(2**symmetry.log2_order) == order
    generator = seeded(0)
    drawn = Counter(
        tuple(symmetry.random(generator).permutations["0.weight[0]"].tolist()) for _ in range(200 * order)
    )
    assert len(drawn) == order
    chi_squared = sum((count - 200) ** 2 / 200 for count in drawn.values())
    assert chi_squared < 30


def test_the_nearest_element_is_the_best_of_all():
    """On two groups of two units all eight elements can be tried."""
    net = nn.Sequential(nn.Linear(2, 4), nn.GroupNorm(2, 4), nn.Tanh(), nn.Linear(4, 1))
    symmetry = discover(net, torch.zeros(2, 2))
    generator = seeded(1)

    def best_by_trial(matrix: torch.Tensor) -> torch.Tensor:
        n = len(matrix)
        return max(
            map(torch.tensor, permutations_of(n)), key=lambda p: float(matrix[torch.arange(n), p].sum())
        )

    def value(element: Alignment, scores) -> float:
        return sum(
            float(matrix[torch.arange(len(matrix)), element.permutations[name]].sum())
            for name, matrix in scores.items()
        )

    for _ in range(20):
        scores = {a.name: torch.randn(a.size, a.size, generator=generator) for a in symmetry.axes}
        nearest = symmetry.nearest(scores, best_by_trial)
        everyone = [symmetry.random(generator) for _ in range(100)]
        assert value(nearest, scores) == pytest.approx(max(value(g, scores) for g in everyone))


def permutations_of(n: int) -> list[tuple[int, ...]]:
    return [()] if n == 0 else [(*p[:i], n - 1, *p[i:]) for p in permutations_of(n - 1) for i in range(n)]


def test_a_symmetry_is_a_group():
    assert isinstance(found("mlp"), AbstractGroup)
    assert math.isclose(found("mlp").identity().moved["0.weight[0]"], 0)


# -- what comes in --------------------------------------------------------------------------------


def test_discovery_changes_neither_the_module_nor_any_random_state():
    module = CASES["vgg"].module().train()
    before = Weights.from_module(module)
    state = torch.get_rng_state()
    discover(module, CASES["vgg"].example())
    assert Weights.from_module(module).equal(before)
    assert module.training
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_example_inputs_may_be_a_tensor_a_tuple_or_a_dict():
    module = Calls(lambda m, x, y: m.two(torch.tanh(m.one(x + y))), one=nn.Linear(3, 4), two=nn.Linear(4, 2))
    x, y = torch.randn(2, 3), torch.randn(2, 3)
    found_tuple = discover(module, (x, y))
    assert discover(module, {"x": x, "y": y}).axes[0].size == found_tuple.axes[0].size == 4
    with pytest.raises(SymmetryError, match="must be a tensor, a tuple of tensors or a dict"):
        discover(module, 3)


def test_only_the_outputs_that_matter_are_pinned():
    module = Calls(
        lambda m, x: {"hidden": (h := torch.tanh(m.one(x))), "logits": m.two(h)},
        one=nn.Linear(3, 4), two=nn.Linear(4, 2),
    )  # fmt: skip
    example = torch.randn(2, 3)
    assert discover(module, example).log2_order == 0
    for wanted in (["logits"], [1], "logits"):
        symmetry = discover(module, example, outputs=wanted)
        assert symmetry.log2_order == pytest.approx(L(4))
        assert symmetry.verification.outputs == ("logits",)
        assert symmetry.verify(module, example).passed
    with pytest.raises(SymmetryError, match="no output 'probabilities'; its outputs are hidden, logits"):
        discover(module, example, outputs=["probabilities"])


def test_frozen_parameters_do_not_move():
    case = CASES["mlp"]
    symmetry = discover(case.module(), case.example(), freeze=[("2.weight", 1)])
    assert symmetry.log2_order == pytest.approx(L(12))
    assert "frozen by the caller" in symmetry.explain("2.weight", 1)
    assert "frozen by the caller" in symmetry.explain("0.weight", 0)
    assert discover(case.module(), case.example(), freeze=["2.weight"]).log2_order == 0
    with pytest.raises(SymmetryError, match=r"freeze names 'nothing', but the module has no such parameter"):
        discover(case.module(), case.example(), freeze=["nothing"])


def test_a_parameter_that_nothing_reads_is_pinned():
    module = Calls(
        lambda m, x: m.two(torch.tanh(m.one(x))),
        one=nn.Linear(3, 4),
        two=nn.Linear(4, 2),
        spare=nn.Linear(5, 6),
    )
    symmetry = discover(module, torch.randn(2, 3))
    assert symmetry.log2_order == pytest.approx(L(4))
    assert symmetry.explain("spare.weight", 0) == "pinned: the traced graph does not read this parameter"


def test_a_model_that_cannot_be_traced_is_refused_with_a_sentence():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x):
            return self.linear(x) if x.sum() > 0 else x

    with pytest.raises(
        SymmetryError, match=r"Branching cannot be traced: torch.export stopped with"
    ) as caught:
        discover(Branching(), torch.randn(2, 3))
    assert "branches on the values of tensors" in str(caught.value)
    with pytest.raises(SymmetryError, match="Linear cannot be traced"):
        discover(nn.Linear(3, 3), torch.randn(2, 4))


def test_a_module_that_cannot_be_copied_is_refused():
    module = nn.Linear(2, 2)
    module.generator = (item for item in ())
    with pytest.raises(SymmetryError, match="Linear cannot be copied"):
        discover(module, torch.randn(1, 2))


# -- what alignments do to weights ----------------------------------------------------------------


def test_buffers_move_with_their_units_and_counters_stay():
    case = CASES["shared_module"]
    module, symmetry = case.module(), found("shared_module")
    weights = Weights.from_module(module)
    (axis,) = symmetry.axes
    turn = Alignment(symmetry, {axis.name: torch.arange(axis.size).roll(1)})
    moved = turn.apply(weights)
    for name, buffer in weights.buffers.items():
        expected = buffer if name.endswith("tracked") else buffer.roll(1)
        assert torch.equal(moved.buffers[name], expected), name
    assert sum(name.endswith("running_mean") for name in weights.buffers) == 2


def test_weights_without_buffers_can_be_aligned():
    weights = Weights.from_module(CASES["vgg"].module())
    bare = weights + weights
    moved = found("vgg").random(seeded(0)).apply(bare)
    assert moved.buffers == {}
    torch.testing.assert_close(moved.vector, 2 * found("vgg").random(seeded(0)).apply(weights).vector)


def test_applying_to_other_weights_is_refused_and_says_what_differs():
    element = found("mlp").identity()
    with pytest.raises(SymmetryError, match=r"do not fit the symmetry's network: missing: 2.weight"):
        element.apply(Weights.from_module(nn.Sequential(nn.Linear(7, 16))))
    wide = CASES["mlp"].module()
    wide[0] = nn.Linear(8, 16)
    with pytest.raises(SymmetryError, match=r"other shape: 0.weight \(expected \[16, 7\], got \[16, 8\]\)"):
        element.apply(Weights.from_module(wide))
    with pytest.raises(SymmetryError, match="only if they belong to one symmetry"):
        element @ found("vgg").identity()


def test_the_weights_that_went_in_are_not_changed():
    weights = Weights.from_module(CASES["vgg"].module())
    digest = weights.digest()
    moved = found("vgg").random(seeded(1)).apply(weights)
    assert weights.digest() == digest
    assert not moved.equal(weights)


def test_files_that_are_no_symmetries_are_refused(tmp_path):
    broken = tmp_path / "x.json"
    broken.write_text("[]")
    with pytest.raises(SymmetryError, match="expected a JSON object"):
        Symmetry.load(broken)
    broken.write_text("{}")
    with pytest.raises(SymmetryError, match="holds no symmetry that isthmus wrote"):
        Symmetry.load(broken)
    with pytest.raises(SymmetryError, match="cannot be read"):
        Symmetry.load(tmp_path / "missing.json")
    with pytest.raises(SymmetryError, match="cannot be read as an alignment"):
        Alignment.load(broken)


def test_the_table_and_the_summary_are_plain_data():
    rows = found("group_norm").table()
    assert {row["axis"] for row in rows} == {axis.name for axis in found("group_norm").axes}
    assert all(isinstance(value, str) for row in rows for value in row.values())
    assert found("group_norm").summary()["log2_order"] == found("group_norm").log2_order


def test_padding_interior_units_are_the_same_content():
    """Channels that meet zero padding are interchangeable; the others follow the narrow stream."""
    module = Calls(
        lambda m, x: m.head(m.wide(x) + F.pad(m.narrow(x), (2, 2))),
        wide=nn.Linear(3, 9), narrow=nn.Linear(3, 5), head=nn.Linear(9, 2),
    )  # fmt: skip
    assert discover(module, torch.randn(2, 3)).log2_order == pytest.approx(L(5) + L(4))


def test_what_cannot_be_traced_prints_no_graph(capfd):
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(SymmetryError, match="cannot be traced"):
        discover(Branching(), torch.zeros(2, 3))
    assert not capfd.readouterr().err
