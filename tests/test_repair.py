"""Repair of merged networks: against a plain loop with hooks, against the definition, and its laws."""

from dataclasses import dataclass, replace
from functools import cache, partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import cases
from conftest import Convolutional
from isthmus import Landscape, Segment, Symmetry, Task, Weights, barrier, discover
from isthmus.errors import DataError, SettingError
from isthmus.merge.folding import change_of
from isthmus.merge.renormalise import (
    lay_ground,
    measure_repair,
    repair_activations,
    reset_batchnorm,
    shares_of,
)
from isthmus.merge.repaired import repaired_line
from isthmus.merge.statistics import ChannelMoments
from isthmus.tasks.transformer import Transformer

EXAMPLES = 48
BOTH, DEVIATION, LEFT = "mean and deviation", "deviation", "left as it was"


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(7, 16), nn.ReLU(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 4))


def residual() -> nn.Module:
    """Residual, without norms; one convolution has no bias."""

    def forward(m, x):
        x = F.relu(m.stem(x))
        x = F.relu(x + m.two(F.relu(m.one(x))))
        return m.head(x.mean((2, 3)))

    return cases.Calls(
        forward, stem=nn.Conv2d(3, 6, 3), one=nn.Conv2d(6, 8, 3, padding=1),
        two=nn.Conv2d(8, 6, 1, bias=False), head=nn.Linear(6, 4),
    )  # fmt: skip


def conv1d_model() -> nn.Module:
    """Weights with the outputs along dimension 1, as GPT-2 has them."""

    def forward(m, x):
        return torch.addmm(m.b2, torch.relu(torch.addmm(m.b1, x, m.w1)), m.w2)

    module = cases.Calls(forward)
    for name, shape in (("w1", (7, 10)), ("b1", (10,)), ("w2", (10, 4)), ("b2", (4,))):
        setattr(module, name, nn.Parameter(torch.randn(shape)))
    return module


@dataclass(frozen=True)
class Net:
    """A network, the shape of one input, and the parts that repair must change, in order, written by hand."""

    build: object
    shape: tuple[int, ...]
    repaired: tuple[str, ...]
    tokens: int = 0


BLOCK = "norm1 attention.query attention.key attention.value attention.output norm2 up down"
RESNET = (
    "bn1 layers.0.bn1 layers.0.bn2 layers.1.bn1 layers.1.bn2 layers.1.shortcut.1 layers.2.bn1 layers.2.bn2"
)
NETS = {
    "plain": Net(plain, (7,), ("0", "2")),
    "residual": Net(residual, (3, 6, 6), ("stem", "one", "two")),
    "batch_norm": Net(Convolutional, (1, 4, 4), ("bn",)),
    "resnet": Net(
        lambda: cases.ResNet(4, 1, "B"), (3, 8, 8), (*RESNET.split(), "layers.2.shortcut.1")
    ),
    "group_norm": Net(cases.group_norm, (3, 9, 9), ("norm", "norm2", "norm3")),
    "layer_norm": Net(cases.layer_norm_mlp, (7,), ("1", "3")),
    "transformer": Net(
        lambda: Transformer(tokens=11, context=6, width=8, heads=2, layers=1), (6,),
        (*(f"blocks.0.{part}" for part in BLOCK.split()), "norm"), tokens=11,
    ),
}  # fmt: skip
each_net = pytest.mark.parametrize("name", NETS)


def built(net: Net, dtype: torch.dtype, seed: int) -> nn.Module:
    """In general position: nothing is zero, ones or equal in two places."""
    shape = cases.Integers((2, *net.shape), net.tokens) if net.tokens else (2, *net.shape)
    return cases.Case("net", net.build, shape, 0).module(seed).to(dtype)


@cache
def setting(name: str, dtype: torch.dtype = torch.float64) -> tuple[Landscape, Weights, Weights, Symmetry]:
    """A landscape of random examples, and two networks on it."""
    net = NETS[name]
    generator = torch.Generator().manual_seed(3)
    if net.tokens:
        x = torch.randint(net.tokens, (EXAMPLES, *net.shape), generator=generator)
        y = torch.randint(net.tokens, x.shape, generator=generator)
    else:
        x = torch.randn(EXAMPLES, *net.shape, generator=generator).to(dtype)
        y = torch.randint(4 if name != "batch_norm" else 3, (EXAMPLES,), generator=generator)
    task = Task(model=partial(built, net, dtype, 0), train=(x, y), test=(x[:20], y[:20]), name=name)
    landscape = Landscape(task, batch=16)
    ends = [Weights.from_module(built(net, dtype, seed)) for seed in (1, 2)]
    return landscape, *ends, discover(task.traceable, task.example, verify=False)


def module_at(landscape: Landscape, weights: Weights) -> nn.Module:
    return weights.to_module(landscape.task.build(0)).eval()


def outputs_of(module: nn.Module, parts: tuple[str, ...], x: torch.Tensor) -> dict[str, torch.Tensor]:
    """What each part gives on all examples."""
    found: dict[str, torch.Tensor] = {}
    named = dict(module.named_modules())
    handles = [
        named[part].register_forward_hook(lambda _m, _i, out, part=part: found.__setitem__(part, out.clone()))
        for part in parts
    ]
    with torch.no_grad():
        module(x)
    for handle in handles:
        handle.remove()
    return found


def channels(layer: nn.Module, output: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
    """A layer's output as (channels, samples), and the shape in which one number a channel meets it."""
    last = isinstance(layer, (nn.Linear, nn.LayerNorm))
    rows = output.movedim(-1 if last else 1, 0).flatten(1)
    return rows, [-1] if last else [1, -1, *[1] * (output.dim() - 2)]


def by_hooks(
    landscape: Landscape, weights: Weights, a: Weights, b: Weights, alpha: float, means: bool = True
) -> nn.Module:
    """Repair as the paper has it, naively: a hook on each layer, put there layer after layer.

    Source: Jordan et al. 2023, section 4; each layer costs a pass of the network with all hooks so far.
    """
    parts = NETS[landscape.task.name].repaired
    x = landscape.task.train[0]
    ends = [outputs_of(module_at(landscape, end), parts, x) for end in (a, b)]
    module = module_at(landscape, weights)
    named = dict(module.named_modules())
    for part in parts:
        layer = named[part]
        rows, shape = channels(layer, outputs_of(module, (part,), x)[part])
        first, second = (channels(layer, end[part])[0] for end in ends)
        wanted = (1 - alpha) * first.std(1) + alpha * second.std(1)
        scale = wanted / rows.std(1)
        mean = (1 - alpha) * first.mean(1) + alpha * second.mean(1) if means else rows.mean(1)
        shift = mean - scale * rows.mean(1)
        if layer.bias is None:
            shift = torch.zeros_like(shift)
        scale, shift = scale.view(shape), shift.view(shape)
        layer.register_forward_hook(lambda _m, _i, out, scale=scale, shift=shift: out * scale + shift)
    return module


# -- against the naive reference --------------------------------------------------------------------


@each_net
@pytest.mark.parametrize("alpha", [0.5, 0.2])
@pytest.mark.parametrize("method", ["exact", "rescale"])
def test_the_folded_network_computes_what_hooks_on_the_layers_do(name, alpha, method):
    landscape, a, b, symmetry = setting(name)
    blend = Segment(a, b)(alpha)
    fixed = repair_activations(
        blend, (a, b), landscape, position=alpha, method=method, examples=EXAMPLES, symmetry=symmetry
    )
    # What a batch norm's statistics were before does not matter if means are set: the hooks see A's.
    start = blend.with_buffers(a.buffers) if method == "exact" else reset_batchnorm(blend, landscape)
    naive = by_hooks(landscape, start, a, b, alpha, method == "exact")
    x = landscape.task.test[0]
    assert_close(module_at(landscape, fixed)(x), naive(x), rtol=1e-8, atol=1e-8)


def test_weights_with_their_outputs_along_the_last_dimension():
    def task_of(module):
        return Task(model=module, train=(x, y), test=(x, y))

    x, y = torch.randn(40, 7).double(), torch.randint(4, (40,))
    torch.manual_seed(1)
    modules = [conv1d_model().double() for _ in range(2)]
    a, b = map(Weights.from_module, modules)
    landscape = Landscape(task_of(modules[0]), batch=20)
    fixed = repair_activations((a + b) * 0.5, (a, b), landscape)
    hidden = x @ fixed["w1"] + fixed["b1"]
    ends = [x @ end["w1"] + end["b1"] for end in (a, b)]
    assert_close(hidden.mean(0), (ends[0].mean(0) + ends[1].mean(0)) / 2)
    assert_close(hidden.std(0), (ends[0].std(0) + ends[1].std(0)) / 2)
    assert torch.equal(fixed["w2"], ((a + b) * 0.5)["w2"])
    assert torch.equal(fixed["b2"], ((a + b) * 0.5)["b2"])


# -- laws ---------------------------------------------------------------------------------------------


@each_net
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_afterwards_every_repaired_channel_has_the_wanted_mean_and_deviation(name, dtype, rtol):
    landscape, a, b, symmetry = setting(name, dtype)
    alpha = 0.3
    fixed = repair_activations(
        Segment(a, b)(alpha), (a, b), landscape, position=alpha, examples=EXAMPLES, symmetry=symmetry
    )
    x = landscape.task.train[0]
    parts = NETS[name].repaired
    first, second, found = (outputs_of(module_at(landscape, w), parts, x) for w in (a, b, fixed))
    named = dict(landscape.task.network.module.named_modules())
    for part in parts:
        one, two, own = (channels(named[part], each[part])[0].double() for each in (first, second, found))
        std = (1 - alpha) * one.std(1) + alpha * two.std(1)
        assert_close(own.std(1), std, rtol=rtol, atol=0)
        if named[part].bias is not None:
            # A mean is as exact as the channel is wide.
            gap = own.mean(1) - (1 - alpha) * one.mean(1) - alpha * two.mean(1)
            assert float((gap / std).abs().max()) < rtol


@each_net
def test_at_an_end_and_between_equal_parents_the_function_stays(name):
    landscape, a, b, symmetry = setting(name)
    x = landscape.task.test[0]
    own = module_at(landscape, a)(x)
    for parents, position in (((a, b), 0.0), ((b, a), 1.0), ((a, a), 0.4)):
        fixed = repair_activations(
            a, parents, landscape, position=position, examples=EXAMPLES, symmetry=symmetry
        )
        assert_close(module_at(landscape, fixed)(x), own, rtol=1e-8, atol=1e-8)
        if not any(isinstance(part, nn.BatchNorm2d) for part in landscape.network.module.modules()):
            assert torch.equal(fixed.vector, a.vector), "not a bit"


@each_net
def test_the_examples_may_come_in_any_batches(name):
    landscape, a, b, symmetry = setting(name)
    blend = (a + b) * 0.5
    found = [
        repair_activations(
            blend, (a, b), replace(landscape, batch=batch), examples=EXAMPLES, symmetry=symmetry
        )
        for batch in (12, EXAMPLES)
    ]
    assert_close(found[0].vector, found[1].vector, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["batch_norm", "resnet"])
def test_the_statistics_of_batch_norm_are_true_ones(name):
    """Measured anew in one batch they are the same, but for n / (n − 1) in what normalises."""
    landscape, a, b, symmetry = setting(name, torch.float32)
    fixed = repair_activations((a + b) * 0.5, (a, b), landscape, examples=EXAMPLES, symmetry=symmetry)
    whole = replace(landscape, batch=EXAMPLES)
    again, blended = (reset_batchnorm(weights, whole).buffers for weights in (fixed, (a + b) * 0.5))
    gaps = []
    for key, variance in fixed.buffers.items():
        if key.endswith("running_var"):
            mean = key.replace("_var", "_mean")
            assert_close(again[key], variance, rtol=0.01, atol=0)
            assert float(((again[mean] - fixed.buffers[mean]) / variance.sqrt()).abs().max()) < 0.01
            gaps.append(float((blended[key] / variance - 1).abs().max()))
    assert gaps[0] < 1e-4, "nothing in front of the first is repaired"
    assert name == "batch_norm" or gaps[-1] > 0.1, "those of the merged network as it was are others"


def test_the_order_of_the_units_does_not_matter():
    landscape, a, b, symmetry = setting("residual")
    element = symmetry.random(torch.Generator().manual_seed(4))
    blend = (a + b) * 0.5
    plain_way = repair_activations(blend, (a, b), landscape, symmetry=symmetry)
    other_way = repair_activations(
        element.apply(blend), (element.apply(a), element.apply(b)), landscape, symmetry=symmetry
    )
    assert_close(element.apply(plain_way).vector, other_way.vector, rtol=1e-9, atol=1e-10)


def test_several_parents_have_one_share_each():
    landscape, a, b, symmetry = setting("plain")
    c = Weights.from_module(built(NETS["plain"], torch.float64, 3))
    shares = (0.5, 0.3, 0.2)
    blend = a * 0.5 + b * 0.3 + c * 0.2
    fixed = repair_activations(blend, (a, b, c), landscape, position=shares, symmetry=symmetry)
    x = landscape.task.train[0]
    found = [outputs_of(module_at(landscape, w), ("2",), x)["2"] for w in (a, b, c, fixed)]
    wanted = sum(share * each.std(0) for share, each in zip(shares, found, strict=False))
    assert_close(found[3].std(0), wanted)


# -- the closed form ----------------------------------------------------------------------------------


def test_the_closed_form_is_exact_where_the_channels_are_blends_of_the_parents():
    """In the first layer they are: its inputs are the data, whoever reads them."""
    landscape, a, b, symmetry = setting("plain")
    for alpha in (0.5, 0.1):
        blend = Segment(a, b)(alpha)
        exact, closed = (
            repair_activations(blend, (a, b), landscape, position=alpha, method=method, symmetry=symmetry)
            for method in ("exact", "closed_form")
        )
        for parameter in ("0.weight", "0.bias"):
            assert_close(closed[parameter], exact[parameter], rtol=1e-10, atol=1e-12)
        assert (closed["2.weight"] - exact["2.weight"]).norm() > 1e-3 * exact["2.weight"].norm()


def test_a_linear_network_of_two_layers_is_repaired_alike_by_both():
    x, y = torch.randn(60, 5).double(), torch.randint(3, (60,))
    torch.manual_seed(0)
    modules = [nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 3)).double() for _ in range(2)]
    a, b = map(Weights.from_module, modules)
    landscape = Landscape(Task(model=modules[0], train=(x, y), test=(x, y)), batch=20)
    exact, closed = (
        repair_activations((a + b) * 0.5, (a, b), landscape, method=method)
        for method in ("exact", "closed_form")
    )
    assert_close(closed.vector, exact.vector, rtol=1e-10, atol=1e-12)


def test_the_deviation_of_a_blend_is_the_published_formula():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(500, 3, generator=generator).double()
    b = 0.4 * a + torch.randn(500, 3, generator=generator) * torch.tensor([0.5, 1.0, 2.0])
    moments = ChannelMoments.of_batch([a[:200], b[:200]], 1).merge(
        ChannelMoments.of_batch([a[200:], b[200:]], 1)
    )
    alpha = 0.3
    for channel in range(3):
        rho = torch.corrcoef(torch.stack([a[:, channel], b[:, channel]]))[0, 1]
        s, t = a[:, channel].std(), b[:, channel].std()
        wanted = (1 - alpha) ** 2 * s**2 + alpha**2 * t**2 + 2 * alpha * (1 - alpha) * rho * s * t
        found = moments.blended_std(shares_of(alpha, 2))[channel]
        assert_close(found, wanted.sqrt())
        assert_close(found, ((1 - alpha) * a + alpha * b)[:, channel].std())


# -- what cannot be repaired, and what is told --------------------------------------------------------


def test_the_record_tells_each_layer():
    landscape, a, b, symmetry = setting("residual")
    told = measure_repair((a + b) * 0.5, (a, b), landscape, symmetry=symmetry)
    assert [(each.weight, each.done, each.channels) for each in told.layers] == [
        ("stem.weight", BOTH, 6), ("one.weight", BOTH, 8), ("two.weight", DEVIATION, 6),
    ]  # fmt: skip
    assert told.layers[2].reason == "it has no bias"
    for each in told.layers:
        assert each.before < 0.9, "independent networks: the blend varies less"
        assert each.after == pytest.approx(1, rel=1e-9)
    assert told.examples == EXAMPLES
    assert told.shares == (0.5, 0.5)
    assert repr(told) == "Repair(exact, 3 of 3 layers, 48 examples)"
    scaled = measure_repair((a + b) * 0.5, (a, b), landscape, method="rescale", symmetry=symmetry)
    assert [each.done for each in scaled.layers] == [DEVIATION] * 3


def test_norms_are_repaired_in_place_of_what_they_read():
    landscape, a, b, symmetry = setting("group_norm")
    told = measure_repair((a + b) * 0.5, (a, b), landscape, symmetry=symmetry)
    left = {each.weight: each.reason for each in told.layers if each.done == LEFT}
    assert left == dict.fromkeys(
        ("conv.weight", "conv2.weight", "conv3.weight"), "only norms read it, and are repaired in its place"
    )
    closed = measure_repair((a + b) * 0.5, (a, b), landscape, method="closed_form", symmetry=symmetry)
    assert {each.done for each in closed.layers} == {LEFT}
    assert "correlation" in next(each.reason for each in closed.layers if each.weight == "norm.weight")


def test_a_layer_that_is_used_twice_is_left_as_it_is():
    module = cases.shared_module().double()
    x, y = torch.randn(30, 7).double(), torch.randint(4, (30,))
    landscape = Landscape(Task(model=module, train=(x, y), test=(x, y)), batch=15)
    a, b = (Weights.from_module(cases.CASES["shared_module"].module(seed).double()) for seed in (1, 2))
    blend = (a + b) * 0.5
    told = measure_repair(blend, (a, b), landscape)
    done = {each.weight: each for each in told.layers}
    assert done["0.weight"].done == BOTH
    for name in ("2.weight", "3.weight"):
        assert done[name].done == LEFT
        assert "more than once" in done[name].reason
        assert torch.equal(told.weights[name], blend[name])


def test_axes_that_no_layer_writes_are_named():
    landscape, a, b, symmetry = setting("transformer")
    assert measure_repair((a + b) * 0.5, (a, b), landscape, symmetry=symmetry).unwritten == ()

    def forward(m, x):
        return m.head(m.body(x)[0][:, -1])

    def build():
        return cases.Calls(forward, body=nn.LSTM(4, 6, batch_first=True), head=nn.Linear(6, 3))

    x, y = torch.randn(20, 3, 4), torch.randint(3, (20,))
    task = Task(model=build, train=(x, y), test=(x, y))
    one, two = (Weights.from_module(task.build(seed)) for seed in (1, 2))
    told = measure_repair((one + two) * 0.5, (one, two), Landscape(task))
    assert len(told.unwritten) == 1
    assert told.layers == ()
    assert torch.equal(told.weights.vector, ((one + two) * 0.5).vector)


def test_channels_that_do_not_vary_give_no_infinities():
    landscape, a, b, symmetry = setting("plain")

    def without(weights, units):
        """Units of the first layer that see nothing."""
        state = weights.state_dict()
        state["0.weight"][units] = 0
        return Weights.from_state_dict(state)

    dead_in_both = without(a, [0]), without(b, [0])
    opposite = a.state_dict()
    opposite["0.weight"][1] = -dead_in_both[1]["0.weight"][1]
    first = without(Weights.from_state_dict(opposite), [0])
    second = dead_in_both[1]
    # Unit 0 varies in neither parent, unit 1 in both, but not in their middle.
    blend = (first + second) * 0.5
    told = measure_repair(blend, (first, second), landscape, symmetry=symmetry)
    assert told.weights.first_nonfinite() is None
    assert told.layers[0].constant == 2
    assert float(told.weights["0.weight"][:2].abs().max()) == 0
    x = landscape.task.train[0]
    mean = outputs_of(module_at(landscape, told.weights), ("0",), x)["0"].mean(0)
    ends = [outputs_of(module_at(landscape, w), ("0",), x)["0"].mean(0) for w in (first, second)]
    assert_close(mean, (ends[0] + ends[1]) / 2)
    # Where only the parents do not vary, the merged channel becomes constant, too.
    third = repair_activations((a + b) * 0.5, dead_in_both, landscape, symmetry=symmetry)
    assert float(third["0.weight"][0].abs().max()) == 0
    assert third.first_nonfinite() is None


def test_rounding_errors_are_not_scaled_up():
    """A channel of 1000 and its last bits: nothing to repair."""
    landscape, *_, symmetry = setting("plain")
    layer = lay_ground(setting("plain")[1:3], landscape, "exact", EXAMPLES, symmetry, None).layers[0]
    one = torch.ones(16, dtype=torch.float64)
    change = change_of(layer, (1000 * one, 1e-13 * one), (one, one))
    assert torch.equal(change.scale, one)
    assert torch.equal(change.shift, -999 * one)


def test_channels_that_are_no_hidden_units_stay():
    landscape, a, b, _ = setting("plain")
    task = landscape.task
    frozen = discover(task.traceable, task.example, freeze=["2.bias"], verify=False)
    fixed = repair_activations((a + b) * 0.5, (a, b), landscape, symmetry=frozen)
    blend = (a + b) * 0.5
    assert not torch.equal(fixed["0.weight"], blend["0.weight"])
    for name in ("2.weight", "2.bias", "4.weight", "4.bias"):
        assert torch.equal(fixed[name], blend[name])


def test_refusals():
    landscape, a, b, symmetry = setting("batch_norm")
    blend = (a + b) * 0.5
    ask = partial(repair_activations, symmetry=symmetry)
    with pytest.raises(SettingError, match=r"parent 2 of 2 carries no bn\.running_mean"):
        ask(blend, (a, b * 1.0), landscape)
    with pytest.raises(SettingError, match="exact, closed_form, rescale"):
        ask(blend, (a, b), landscape, method="whatever")
    with pytest.raises(SettingError, match=r"position in \[0, 1\] between two parents"):
        ask(blend, (a, b), landscape, position=1.5)
    with pytest.raises(SettingError, match="3 parents"):
        ask(blend, (a, b, a), landscape)
    with pytest.raises(SettingError, match="sum of 1"):
        ask(blend, (a, b), landscape, position=(0.5, 0.6))
    with pytest.raises(SettingError, match="at least 2 examples"):
        ask(blend, (a, b), landscape, examples=1)
    broken = Weights(a.layout, a.vector * float("inf"), a.buffers)
    with pytest.raises(DataError, match="not finite"):
        ask(blend, (a, broken), landscape)


# -- the reset ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["recalibrate", "interpolate", "keep"])
def test_a_reset_measures_whatever_the_policy_of_the_landscape(policy):
    landscape, a, b, _ = setting("batch_norm", torch.float32)
    landscape = replace(landscape, batchnorm=policy)
    for weights in ((a + b) * 0.5, a):
        found = reset_batchnorm(weights, landscape)
        conv = module_at(landscape, found).conv(landscape.task.train[0])
        assert_close(found.buffers["bn.running_mean"], conv.mean((0, 2, 3)).detach())
        assert_close(found.buffers["bn.running_var"], conv.var((0, 2, 3)).detach())
        assert torch.equal(found.vector, weights.vector)
        assert found.buffers.keys() == a.buffers.keys()


def test_a_network_without_batch_norm_comes_back_as_it_is():
    landscape, a, *_ = setting("plain")
    assert reset_batchnorm(a, landscape) is a


# -- along a line -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["residual", "batch_norm"])
@pytest.mark.parametrize("repair", ["none", "reset", "exact", "closed_form", "rescale"])
def test_every_point_of_a_line_is_repaired_by_itself(name, repair):
    landscape, a, b, symmetry = setting(name)
    line = repaired_line(a, b, landscape, [0, 0.3, 1], repair, examples=EXAMPLES, symmetry=symmetry)
    assert line.points[0] is a
    assert line.points[-1] is b
    blend = Segment(a, b)(0.3)
    if repair == "none":
        expected = blend
    elif repair == "reset":
        expected = reset_batchnorm(blend, landscape)
    else:
        expected = repair_activations(
            blend, (a, b), landscape, position=0.3, method=repair, examples=EXAMPLES, symmetry=symmetry
        )
    assert torch.equal(line.points[1].vector, expected.vector)
    if repair == "none" and name == "batch_norm":
        mean = 0.7 * a.buffers["bn.running_mean"] + 0.3 * b.buffers["bn.running_mean"]
        assert_close(line.points[1].buffers["bn.running_mean"], mean)
    found = line.profile(landscape, "train")
    for at, point in enumerate(line.points):
        loss = F.cross_entropy(module_at(landscape, point)(landscape.task.train[0]), landscape.task.train[1])
        assert_close(found.loss[at], loss.detach())
    assert found.split == "train"
    assert found.length >= found.endpoint_distance - 1e-9
    assert barrier(found).points == 3


def test_positions_ascend_from_0_to_1():
    landscape, a, b, _ = setting("plain")
    for positions in ([0.5, 1], [0, 0.5], [0, 0.7, 0.2, 1], 1):
        with pytest.raises(SettingError, match=r"ascend|at least its 2"):
            repaired_line(a, b, landscape, positions)
    with pytest.raises(SettingError, match="expected a repair"):
        repaired_line(a, b, landscape, 3, "magic")
    assert repaired_line(a, b, landscape, 5, "none").t.tolist() == [0, 0.25, 0.5, 0.75, 1]


def test_channels_that_are_no_hidden_units_keep_every_bit():
    """Half of a layer's channels are outputs: a repair of the others may not touch them."""

    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 12), nn.Linear(8, 4)

        def forward(self, x):
            hidden = self.first(x)
            return self.second(hidden[:, :8].relu()) + hidden[:, 8:]

    generator = torch.Generator().manual_seed(0)
    data = (torch.randn(60, 3, generator=generator), torch.randint(4, (60,), generator=generator))
    task = Task(model=Half, train=data, test=data)
    a, b = (Weights.from_module(task.build(seed)) for seed in (1, 2))
    middle = (a + b) * 0.5
    fixed = repair_activations(middle, (a, b), Landscape(task))
    assert torch.equal(fixed["first.weight"][8:], middle["first.weight"][8:])
    assert torch.equal(fixed["first.bias"][8:], middle["first.bias"][8:])
    assert not torch.equal(fixed["first.weight"][:8], middle["first.weight"][:8])
