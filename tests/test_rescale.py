"""Rescalings: sound on every network, complete where a dimension is known by hand, honest about the rest."""

from __future__ import annotations

import itertools
import math
import pickle
from functools import cache
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adversarial import ADVERSARIAL
from cases import CASES, Calls, Case, ResNet
from isthmus.errors import SettingError, SymmetryError, SymmetryWarning
from isthmus.symmetry import AbstractGroup
from isthmus.symmetry.rescale import Ending, Rescaling, Scaling, discover_rescalings
from isthmus.symmetry.rescale.call import Call
from isthmus.symmetry.rescale.group import Kind
from isthmus.weights import Weights

KINDS = get_args(Kind)
each_kind = pytest.mark.parametrize("kind", KINDS)
each_case = pytest.mark.parametrize("name", CASES)

# (independent positive scales, independent sign flips), counted by hand.
BY_HAND = {
    "mlp": (16, 0),  # GELU lets nothing through
    "cnn_flatten": (6, 6 + 9),  # the affine parameters; the channels before batch norm, and tanh
    "vgg": (6 + 8 + 10 + 10 + 12, 6 + 8 + 10 + 10),
    # Scales: inside every block, and one for each channel of the three stages. Signs: before every norm.
    "resnet_projection": (2 * 28 + 28, 4 + 2 * 28 + 2 * 28 + 8 + 16),
    "resnet_option_a": (2 * 28 + 16, 4 + 2 * 28 + 2 * 28),
    # One sign a group of a group norm, which takes its mean away.
    "group_norm": (8 + 12, 4 + 4 + 3 + 12),
    "layer_norm_mlp": (16 + 12, 1 + 12 + 12),
    "inverted_bottleneck": (6 + 3, 6),
    "grouped_convolution": (8 + 12, 8 + 12),
    "depth_multiplier": (6 + 12, 0),
    "tied_autoencoder": (0, 10),
    "shared_module": (0, 10),
    # Both hidden layers before the tied weights have one factor, up to a number; the last is free.
    "tied_parameter": (8 + 1, 0),
    "dense": (6 + 10 + 5, 6 + 4 + 5),
    "gated": (10, 10),
    "recurrent": (0, 8),
    "attention": (6 + 12 + 12, 6 + 12 + 12),  # the stream, q with k, v with o
    "conv1d": (6 + 8, 6),
    "mixed_pinning": (6, 0),
    "permuted_layout": (6 + 6, 6 + 6 + 1),
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@cache
def rescaling(name: str, kind: Kind) -> Rescaling:
    """The rescalings of a case, found once a process."""
    return discover_rescalings(CASES[name].module(), CASES[name].example(), kind=kind)


def found(module: nn.Module, example: Tensor, kind: Kind, **settings: object) -> Rescaling:
    group = discover_rescalings(module, example, kind=kind, **settings)
    assert group.verification.passed
    return group


@torch.no_grad()
def assert_sound(group: Rescaling, module: nn.Module, example: Tensor, draws: int = 2) -> None:
    """f(g·θ, x) = f(θ, x) in float64, to 1e-9 relative."""
    module, example = module.double(), example.double()
    weights = Weights.from_module(module)
    before = module(example)
    for seed in range(draws):
        after = group.random(seeded(seed)).apply(weights).to_module(module)(example)
        torch.testing.assert_close(after, before, rtol=0, atol=1e-9 * float(before.abs().max()))
    weights.to_module(module)


# -- the zoo --------------------------------------------------------------------------------------


@each_kind
@each_case
def test_a_random_element_leaves_the_function_as_it_is(name, kind):
    group = rescaling(name, kind)
    assert group.verification.passed
    assert group.verification.tolerance == 1e-9
    if not isinstance(CASES[name].example(), Tensor):
        return
    assert_sound(group, CASES[name].module(), CASES[name].example())


@each_kind
@pytest.mark.parametrize("name", BY_HAND)
def test_the_dimension_is_the_one_counted_by_hand(name, kind):
    assert rescaling(name, kind).dimension == BY_HAND[name][KINDS.index(kind)]


@each_kind
@pytest.mark.parametrize("name", ADVERSARIAL)
def test_adversarial_networks_are_sound(name, kind):
    case = Case(name, ADVERSARIAL[name][0], (5, 6), 0.0)
    group = found(case.module(), case.example(), kind)
    if name != "random mask":
        assert_sound(group, case.module(), case.example())


# -- small networks, counted by hand --------------------------------------------------------------


def tanh_convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Tanh(), nn.Conv2d(6, 4, 3), nn.Tanh(), nn.Flatten(),
        nn.Linear(16, 3),
    )  # fmt: skip


def llama_block() -> nn.Module:
    """Pre-norm attention with grouped queries and rotary positions, and a gated MLP; width 8."""

    def turned(x):
        angle = torch.outer(torch.arange(5.0), 0.7 ** torch.arange(2.0))
        cos, sin = angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)
        return x * cos + torch.cat([-x[..., 2:], x[..., :2]], -1) * sin

    def forward(m, tokens):
        x = m.embed(tokens)
        y = m.before(x)
        q = turned(m.q(y).unflatten(-1, (4, 4)).transpose(1, 2))
        k, v = (f(y).unflatten(-1, (2, 4)).transpose(1, 2) for f in (m.k, m.v))
        z = F.scaled_dot_product_attention(q, turned(k), v, is_causal=True, enable_gqa=True)
        x = x + m.o(z.transpose(1, 2).flatten(2))
        y = m.between(x)
        return m.head(m.after(x + m.down(F.silu(m.gate(y)) * m.up(y))))

    def linear(inner: int, outer: int) -> nn.Module:
        return nn.Linear(inner, outer, bias=False)

    return Calls(
        forward,
        embed=nn.Embedding(11, 8), q=linear(8, 16), k=linear(8, 8), v=linear(8, 8), o=linear(16, 8),
        gate=linear(8, 10), up=linear(8, 10), down=linear(10, 8), head=linear(8, 3),
        before=nn.RMSNorm(8), between=nn.RMSNorm(8), after=nn.RMSNorm(8),
    )  # fmt: skip


def fused_attention() -> nn.Module:
    return Calls(lambda m, x: m.attend(x, x, x, need_weights=False)[0], attend=nn.MultiheadAttention(8, 2))


def residual_relu() -> nn.Module:
    def forward(m, x):
        x = m.enter(x)
        return m.leave(x + m.down(F.relu(m.up(x))))

    return Calls(
        forward, enter=nn.Linear(5, 6), up=nn.Linear(6, 9), down=nn.Linear(9, 6), leave=nn.Linear(6, 2)
    )


def complex_numbers() -> nn.Module:
    def forward(m, x):
        z = torch.view_as_complex(m.first(x).unflatten(-1, (4, 2)).contiguous())
        z = z * torch.polar(torch.ones(4), torch.arange(4.0))
        return m.second(torch.view_as_real(z).flatten(-2))

    return Calls(forward, first=nn.Linear(5, 8), second=nn.Linear(8, 3))


def einsum_heads() -> nn.Module:
    module = Calls(lambda m, x: torch.einsum("bhk,hkd->bd", torch.einsum("bd,dhk->bhk", x, m.a).relu(), m.b))
    module.a = nn.Parameter(torch.randn(5, 3, 4))
    module.b = nn.Parameter(torch.randn(3, 4, 2))
    return module


def transposed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.ConvTranspose2d(6, 8, 2, groups=2), nn.ReLU(), nn.Conv2d(8, 2, 1)
    )


def weight_normed() -> nn.Module:
    first = nn.utils.parametrizations.weight_norm(nn.Linear(5, 6))
    return nn.Sequential(first, nn.ReLU(), nn.Linear(6, 2))


def bottleneck() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))


def bilinear() -> nn.Module:
    return Calls(
        lambda m, x: m.out(m.both(torch.tanh(m.a(x)), torch.tanh(m.b(x)))),
        a=nn.Linear(5, 3), b=nn.Linear(5, 4), both=nn.Bilinear(3, 4, 6), out=nn.Linear(6, 2),
    )  # fmt: skip


def squares() -> nn.Module:
    return Calls(lambda m, x: m.out(m.inner(x).square()), inner=nn.Linear(5, 4), out=nn.Linear(4, 2))


def transformer(norm: type[nn.Module], layers: int = 2, width: int = 8) -> nn.Module:
    """A small GPT with learned positions and two heads."""

    def forward(m, tokens):
        x = m.words(tokens) + m.places
        for one in m.layers:
            q, k, v = one.qkv(one.first(x)).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4).unbind(0)
            x = x + one.out(
                F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
            )
            x = x + one.down(F.gelu(one.up(one.second(x))))
        return m.head(m.norm(x))

    def layer() -> nn.Module:
        return Calls(
            None, first=norm(width), second=norm(width), qkv=nn.Linear(width, 3 * width),
            out=nn.Linear(width, width), up=nn.Linear(width, 12), down=nn.Linear(12, width),
        )  # fmt: skip

    module = Calls(
        forward, words=nn.Embedding(11, width), layers=nn.ModuleList(layer() for _ in range(layers)),
        norm=norm(width), head=nn.Linear(width, 11, bias=False),
    )  # fmt: skip
    module.places = nn.Parameter(torch.randn(5, width))
    return module


TOKENS = torch.arange(10).view(2, 5)
X = torch.randn(4, 5, generator=seeded(0))
IMAGE = torch.randn(2, 3, 6, 6, generator=seeded(1))
MORE = {
    # In every layer two norms' outputs, q–k and v–o; the last norm's output; and the stream: as a whole for
    # layer norm, unit by unit for RMS norm.
    "transformer": (lambda: transformer(nn.LayerNorm), TOKENS, 2 * 4 * 8 + 8, 2 * 4 * 8 + 8 + 1),
    "transformer with rms norm": (lambda: transformer(nn.RMSNorm), TOKENS, 2 * 4 * 8 + 8, 2 * 4 * 8 + 8 + 8),
    "relu mlp": (
        lambda: nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 5)),
        X, 28, 0,
    ),
    "tanh mlp": (
        lambda: nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 5)),
        X, 0, 28,
    ),
    # A sign before the norm, one after it, and one for each of the four channels behind tanh.
    "tanh convolutions": (tanh_convolutions, IMAGE, 0, 6 + 6 + 4),
    # Signs: the stream 8; three norms' outputs 8 each; q–k: rotary turns plane by plane, so a plane of each
    # of the 2 key heads has one factor, 2 * 2; v–o: 2 heads of 4; up–down: 10. Scales: the same without the
    # stream, whose norms add an ε.
    "llama block": (llama_block, TOKENS, 3 * 8 + 4 + 8 + 10, 8 + 3 * 8 + 4 + 8 + 10),
    "fused attention": (fused_attention, torch.randn(5, 2, 8, generator=seeded(2)), 8 + 8, 8 + 8),
    "residual relu": (residual_relu, X, 6 + 9, 6),
    "complex numbers": (complex_numbers, X, 4, 4),
    "heads by einsum": (einsum_heads, X, 12, 0),
    "grouped transposed convolution": (transposed, IMAGE, 6 + 8, 0),
    # Scales: of every direction, which the norm takes away, and of every length. Signs: those of a direction
    # with its length, and nothing through ReLU.
    "weight norm": (weight_normed, X, 6 + 6, 6),
    "linear bottleneck": (bottleneck, X, 4 + 6, 4),
    "bilinear": (bilinear, X, 6, 3 + 4 + 6),
    "squares": (squares, X, 4, 4),
    "leaky relu": (
        lambda: nn.Sequential(nn.Linear(5, 6), nn.LeakyReLU(), nn.Linear(6, 2)), X, 6, 0
    ),
    "soft sign": (lambda: nn.Sequential(nn.Linear(5, 6), nn.Softsign(), nn.Linear(6, 2)), X, 0, 6),
    "hard tanh": (lambda: nn.Sequential(nn.Linear(5, 6), nn.Hardtanh(), nn.Linear(6, 2)), X, 0, 6),
    "relu6": (lambda: nn.Sequential(nn.Linear(5, 6), nn.ReLU6(), nn.Linear(6, 2)), X, 0, 0),
    "root of a relu": (
        lambda: Calls(lambda m, x: m.b(m.a(x).relu().sqrt()), a=nn.Linear(5, 6), b=nn.Linear(6, 2)), X, 6, 0
    ),
    "windows": (
        lambda: Calls(
            lambda m, x: m.b(F.fold(F.unfold(m.a(x).relu(), 3), (4, 4), 3).sum((2, 3))),
            a=nn.Conv2d(3, 4, 3), b=nn.Linear(4, 2),
        ),
        IMAGE, 4, 0,
    ),
    "fourier": (
        lambda: Calls(
            lambda m, x: m.b(torch.fft.irfft(torch.fft.rfft(m.a(x), dim=0), n=4, dim=0)),
            a=nn.Linear(5, 6), b=nn.Linear(6, 2),
        ),
        X, 6, 6,
    ),
    # Places are the hidden units of a kernel of one place; with a stride, they are not the same places.
    "places as units": (
        lambda: Calls(
            lambda m, x: m.b(m.c(m.a(x).relu().unsqueeze(1))[:, 0].relu()),
            a=nn.Linear(5, 6), c=nn.Conv1d(1, 1, 1, bias=False), b=nn.Linear(6, 2),
        ),
        X, 6 + 1, 0,
    ),
    "places moved": (
        lambda: Calls(
            lambda m, x: m.b(m.c(m.a(x).relu().unsqueeze(1))[:, 0].relu()),
            a=nn.Linear(5, 3), c=nn.Conv1d(1, 1, 1, stride=2, padding=1, bias=False), b=nn.Linear(3, 2),
        ),
        X, 1 + 1, 0,
    ),
    "taken from a number": (
        lambda: Calls(
            lambda m, x: m.b(torch.rsub(m.a(x).tanh(), m.c(x), alpha=0)),
            a=nn.Linear(5, 3), b=nn.Linear(3, 2), c=nn.Linear(5, 3),
        ),
        X, 0, 3,
    ),
    "normalised": (
        lambda: Calls(lambda m, x: m.b(F.normalize(m.a(x), dim=-1)), a=nn.Linear(5, 6), b=nn.Linear(6, 2)),
        X, 0, 6,
    ),
}  # fmt: skip


@each_kind
@pytest.mark.parametrize("name", MORE)
def test_small_networks_have_the_dimension_counted_by_hand(name, kind):
    build, example, *dimensions = MORE[name]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        module = build()
    group = found(module, example, kind)
    assert group.dimension == dimensions[KINDS.index(kind)], group.table()
    if example.is_floating_point():
        assert_sound(group, module, example)


# -- against naive counting -----------------------------------------------------------------------


def chained(activation: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), activation, nn.Linear(4, 5), activation, nn.Linear(5, 2))


def every_unit_switches(module: nn.Module, inputs: Tensor) -> bool:
    """Units that are always on, or always off, have more freedom than a scale."""
    return all(0.02 < share < 0.98 for share in (module[0](inputs) > 0).double().mean(0).tolist())


@pytest.mark.parametrize(
    ("build", "dimension"),
    [
        (lambda: nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)), 6),
        (lambda: chained(nn.LeakyReLU(0.3)), 4 + 5),
        (lambda: chained(nn.Tanh()), 0),
    ],
)
def test_the_scales_are_all_directions_along_which_the_function_stays(build, dimension):
    """The kernel of the Jacobian over many inputs has the dimension of the group."""
    inputs = 5 * torch.randn(400, 3, generator=seeded(4), dtype=torch.float64)
    for seed in range(100):
        torch.manual_seed(seed)
        module = build().double()
        if every_unit_switches(module, inputs):
            break
    names = dict(module.named_parameters())

    def outputs(*values: Tensor) -> Tensor:
        return torch.func.functional_call(module, dict(zip(names, values, strict=True)), (inputs,)).flatten()

    jacobian = torch.autograd.functional.jacobian(outputs, tuple(names.values()))
    whole = torch.cat([part.reshape(part.shape[0], -1) for part in jacobian], 1)
    rank = int(torch.linalg.matrix_rank(whole, rtol=1e-10))
    assert found(module, inputs, "positive").dimension == whole.shape[1] - rank == dimension


def gated_pair() -> nn.Module:
    return Calls(
        lambda m, x: m.c(F.silu(m.a(x)) * m.b(x)), a=nn.Linear(1, 2), b=nn.Linear(1, 2), c=nn.Linear(2, 1)
    )


def rms() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2, bias=False), nn.RMSNorm(2), nn.Linear(2, 2))


def tied() -> nn.Module:
    return Calls(lambda m, x: F.linear(torch.tanh(m.a(x)), m.a.weight.T), a=nn.Linear(3, 3))


@pytest.mark.parametrize("build", [lambda: chained(nn.Tanh())[:3], gated_pair, rms, tied])
def test_the_signs_are_all_flips_of_single_parameters_that_leave_the_function(build):
    """All sign patterns of up to 2^16 are tried, those that are no products of rows and columns too."""
    torch.manual_seed(1)
    module = build().double()
    if isinstance(module, nn.Sequential) and len(module) == 3 and isinstance(module[1], nn.Tanh):
        module = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(0.3, 1.3)
    width = next(iter(module.parameters())).shape[1]
    inputs = torch.randn(6, width, generator=seeded(5), dtype=torch.float64)
    weights = Weights.from_module(module)
    count = weights.vector.numel()
    patterns = torch.tensor(list(itertools.product([1.0, -1.0], repeat=count)), dtype=torch.float64)
    names = list(weights)
    shapes = [weights[name].shape for name in names]

    def outputs(vector: Tensor) -> Tensor:
        values = [part.view(shape) for part, shape in zip(vector.split(sizes), shapes, strict=True)]
        return torch.func.functional_call(module, dict(zip(names, values, strict=True)), (inputs,))

    sizes = [weights[name].numel() for name in names]
    with torch.no_grad():
        every = torch.vmap(outputs)(patterns * weights.vector)
        same = ((every - outputs(weights.vector)).abs().amax((1, 2)) < 1e-12).sum()
    assert found(module, inputs, "sign").dimension == math.log2(int(same))


# -- controls -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), [("tied_autoencoder", "sign"), ("attention", "positive")])
def test_every_control_fires(name, kind):
    proof = rescaling(name, kind).verification
    assert len(proof.controls) == 8
    assert proof.powerless == ()


@pytest.mark.parametrize(
    ("name", "kind"),
    [("attention", "sign"), ("attention", "positive"), ("conv1d", "sign"), ("gated", "positive")],
)
def test_leaving_out_any_one_parameter_changes_the_outputs(name, kind):
    """The control for every parameter but biases that a norm or a softmax takes away."""
    group, module = rescaling(name, kind), CASES[name].module().double()
    example, weights = CASES[name].example().double(), Weights.from_module(module)
    scaled = group.random(seeded(5)).apply(weights)
    with torch.no_grad():
        before = module(example)
        for parameter in weights:
            if torch.equal(scaled[parameter], weights[parameter]):
                continue
            if (name, parameter) in {("attention", "k.bias"), ("conv1d", "0.bias")}:
                continue
            broken = scaled.vector.clone()
            weights.layout.view(broken, weights.layout.index[parameter]).copy_(weights[parameter])
            after = Weights(weights.layout, broken, scaled.buffers).to_module(module)(example)
            assert float((after - before).abs().max()) > 1e-7 * float(before.abs().max()), parameter
    weights.to_module(module)


def test_a_wrong_rule_is_caught_pinned_and_named():
    """A rule that takes GELU for an odd function; the coordinates that are right stay."""
    module = nn.Sequential(nn.Linear(5, 4), nn.GELU(), nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    with pytest.warns(SymmetryWarning, match=r"scaling 0\.weight\[0\]#0.* a rule of isthmus is wrong"):
        group = discover_rescalings(module, X, kind="sign", rules={"aten::gelu": lambda call: call.one})
    assert group.dimension == 6
    assert len(group.verification.failed) == 4
    assert not group.verification.passed
    assert group.pinned["0.weight", 0] == "scaling it changed the outputs"
    assert_sound(group, module, X)


def test_verification_finds_a_group_that_is_too_large():
    wide = discover_rescalings(
        nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)), X, kind="positive", verify=False
    )
    other = nn.Sequential(nn.Linear(5, 4), nn.GELU(), nn.Linear(4, 2))
    assert not wide.verify(other, X).passed


def test_a_rule_that_fails_counts_as_unknown():
    def broken(call: Call) -> object:
        raise ValueError("no such luck")

    module = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))
    group = found(module, X, "sign", rules={"aten::tanh": broken})
    assert group.dimension == 0
    assert "no such luck" in group.explain("0.weight", 0)


@each_kind
def test_an_unknown_operation_is_pinned_and_named(kind):
    module = Calls(lambda m, x: m.b(torch.special.bessel_j0(m.a(x))), a=nn.Linear(5, 4), b=nn.Linear(4, 2))
    group = found(module, X, kind)
    assert group.dimension == 0
    assert "special_bessel_j0" in group.explain("a.weight", 0)
    assert "there is no rule for this operation" in group.explain("a.weight", 0)


# -- group laws -----------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("name", ["cnn_flatten", "attention", "gated", "resnet_option_a"])
def test_group_laws(name, kind):
    group = rescaling(name, kind)
    assert isinstance(group, AbstractGroup)
    weights = Weights.from_module(CASES[name].module().double())
    g, h = (group.random(seeded(seed)) for seed in (1, 2))
    one = group.identity()
    assert one.apply(weights).equal(weights)
    assert_close((g @ h).apply(weights), g.apply(h.apply(weights)))
    assert_close((g @ h).apply(weights), (h @ g).apply(weights))
    assert_close((g @ g.inverse()).apply(weights), weights)
    torch.testing.assert_close((g @ h).inverse().coordinates, (h.inverse() @ g.inverse()).coordinates)
    if group.dimension:
        assert g.apply(weights).distance(weights) > 0.1
    if kind == "sign":
        assert g.apply(g.apply(weights)).equal(weights)
        assert g.apply(weights).norm() == pytest.approx(weights.norm(), rel=1e-12)


def assert_close(first: Weights, second: Weights) -> None:
    torch.testing.assert_close(first.vector, second.vector, rtol=1e-12, atol=1e-12)
    for name, buffer in first.buffers.items():
        torch.testing.assert_close(buffer, second.buffers[name], rtol=1e-12, atol=1e-12)


@each_kind
def test_every_coordinate_changes_some_parameter_and_no_two_do_the_same(kind):
    for name in BY_HAND:
        group = rescaling(name, kind)
        weights = Weights.from_module(CASES[name].module().double())
        rows = []
        for number in range(group.dimension):
            bits = torch.zeros(group.dimension)
            bits[number] = 1
            moved = group.element(bits).apply(weights)
            rows.append((moved.vector / weights.vector).abs().log() + (moved.vector * weights.vector < 0))
        if rows:
            assert torch.stack(rows).unique(dim=0).shape[0] == group.dimension
            assert bool((torch.stack(rows) != 0).any(1).all())


# -- what it says ---------------------------------------------------------------------------------


def test_reasons_explain_what_is_pinned():
    module = nn.Sequential(nn.Linear(5, 4), nn.GELU(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    group = found(module, X, "positive")
    assert "gelu in 1: it is not positively homogeneous" in group.explain("0.weight", 0)
    assert "the output output has to stay as it is" in group.explain("4.weight", 0)
    assert group.explain("2.weight", 0) == "3 of 3 units can be scaled"
    assert group.explain("4.weight", -1) == "3 of 3 units can be scaled"
    signs = found(module, X, "sign")
    assert "relu in 3: it is not odd" in signs.explain("2.bias", 0)


def test_the_epsilon_of_a_norm_is_the_reason():
    module = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    assert "small number which it adds to a variance" in found(module, X, "positive").explain("0.weight", 0)


def test_tables_summaries_and_reprs():
    group = rescaling("attention", "positive")
    assert sum(int(row["coordinates"]) for row in group.table()) == 30
    assert {"coordinates": "12", "carried by": "v.weight[0], v.bias[0], o.weight[1]^-1"} in group.table()
    assert repr(group) == (
        f"Rescaling(30 independent positive scales, {group.coverage:.0%} of the parameters can change, "
        f"{len(group.pinned)} axes of parameters pinned)"
    )
    assert group.summary()["dimension"] == 30
    assert group.log2_order == math.inf
    signs = rescaling("attention", "sign")
    assert signs.log2_order == 30.0
    assert "30 independent sign flips" in repr(signs)
    assert "30 sign flips" in repr(signs.random(seeded(0)))
    assert "30 scales up to a factor of" in repr(group.random(seeded(0)))
    assert 0.9 < group.coverage < 1
    assert rescaling("recurrent", "positive").log2_order == 0.0


# -- settings and refusals ------------------------------------------------------------------------


def test_frozen_parameters_and_axes_keep_the_factor_one():
    def build():
        return nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))

    assert found(build(), X, "positive", freeze=["0.bias"]).dimension == 3
    assert found(build(), X, "positive", freeze=[("0.bias", 0)]).dimension == 3
    assert (
        found(build(), X, "positive", freeze=["2.weight"]).dimension == 1
    )  # all of both layers by one number
    assert found(build(), X, "positive", freeze=[("4.weight", 1)]).dimension == 5
    assert "frozen by the caller" in found(build(), X, "positive", freeze="0.bias").explain("0.bias", 0)


def test_only_chosen_outputs_have_to_stay():
    def forward(m, x):
        h = torch.tanh(m.a(x))
        return {"hidden": h, "logits": m.b(h), "other": m.c(h)}

    module = Calls(forward, a=nn.Linear(5, 4), b=nn.Linear(4, 2), c=nn.Linear(4, 2))
    assert found(module, X, "sign").dimension == 0
    group = found(module, X, "sign", outputs=["logits"])
    assert group.dimension == 4
    assert "no output that matters depends on this parameter" in group.explain("c.weight", 0)
    assert found(module, X, "sign", outputs=[1]).dimension == 4
    with pytest.raises(SymmetryError, match="no output 'loss'; its outputs are hidden, logits, other"):
        discover_rescalings(module, X, outputs=["loss"])


def test_the_module_and_the_generators_stay_as_they_are():
    module = CASES["cnn_flatten"].module().train()
    before, state = Weights.from_module(module), torch.get_rng_state()
    discover_rescalings(module, CASES["cnn_flatten"].example(), kind="sign")
    assert module.training
    assert Weights.from_module(module).equal(before)
    assert torch.equal(torch.get_rng_state(), state)


def test_refusals():
    module = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))
    with pytest.raises(SettingError, match="must be 'positive' or 'sign', but it is 'complex'"):
        discover_rescalings(module, X, kind="complex")
    with pytest.raises(SymmetryError, match="freeze names 'nobody'"):
        discover_rescalings(module, X, freeze=["nobody"])
    with pytest.raises(SymmetryError, match=r"but 0\.bias has 1 axes"):
        discover_rescalings(module, X, freeze=[("0.bias", 1)])
    group = discover_rescalings(module, X, kind="sign")
    with pytest.raises(SymmetryError, match=r"no axis 2 of a parameter '0\.weight'"):
        group.explain("0.weight", 2)
    with pytest.raises(SymmetryError, match=r"4 coordinates, but \[3\] came"):
        group.element(torch.zeros(3))
    other = Weights.from_module(nn.Linear(5, 4))
    with pytest.raises(SymmetryError, match=r"do not fit the rescaling's network: missing: 0\.weight"):
        group.identity().apply(other)
    scales = discover_rescalings(module, X)
    with pytest.raises(SymmetryError, match="only if they belong to one rescaling"):
        _ = group.identity() @ scales.identity()
    with pytest.raises(SettingError, match="balance positive scalings"):
        group.balanced(Weights.from_module(module))
    with pytest.raises(SettingError, match="max_sweeps must be at least 1, but it is 0"):
        scales.balanced(Weights.from_module(module), max_sweeps=0)


# -- on disk --------------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("name", ["cnn_flatten", "attention", "recurrent", "resnet_option_a"])
def test_saved_groups_and_elements_load_back_equal(name, kind, tmp_path):
    group = rescaling(name, kind)
    group.save(tmp_path / "group.safetensors")
    loaded = Rescaling.load(tmp_path / "group.safetensors")
    assert loaded == group
    assert loaded.dimension == group.dimension
    element = group.random(seeded(4))
    element.save(tmp_path / "element.safetensors")
    back = Scaling.load(tmp_path / "element.safetensors")
    assert back == element
    assert back.ending is Ending.RANDOM
    weights = Weights.from_module(CASES[name].module())
    assert back.apply(weights).equal(element.apply(weights))
    assert pickle.loads(pickle.dumps(element)) == element
    assert group != rescaling("gated", kind)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(SymmetryError, match="cannot be read as a rescaling"):
        Rescaling.load(tmp_path / "text")
    rescaling("gated", "sign").save(tmp_path / "group")
    with pytest.raises(SymmetryError, match="no element of it"):
        Scaling.load(tmp_path / "group")


def test_a_larger_network_has_the_dimension_counted_by_hand():
    """ResNet-20: 336 channels inside the blocks, 112 on the streams of the stages."""
    module = ResNet(16, 3, "B").eval()
    group = discover_rescalings(module, torch.zeros(1, 3, 8, 8), verify=False)
    assert group.dimension == 3 * (16 + 32 + 64) + (16 + 32 + 64)
