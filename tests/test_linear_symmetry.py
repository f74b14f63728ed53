"""Changes of basis: what is found, what is refused and why, and that the function stays in float64."""

from __future__ import annotations

import copy
import re
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from isthmus.errors import SymmetryError
from isthmus.symmetry.linear import discover_bases
from isthmus.symmetry.linear.bases import Basis, BasisPlace, changed
from isthmus.tasks.transformer import Transformer
from isthmus.weights import Weights

WIDTH, HEADS, TOKENS = 12, 3, 7
EXAMPLE = torch.randint(TOKENS, (2, 6), generator=torch.Generator().manual_seed(0))


def lively(module: nn.Module) -> nn.Module:
    """Float64 parameters of ordinary size, norms that do something."""
    generator = torch.Generator().manual_seed(3)
    module = module.double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4 + 0.1)
    return module


def output(module: nn.Module, weights: Weights, example=EXAMPLE) -> torch.Tensor:
    twin = weights.to_module(copy.deepcopy(module))
    with torch.no_grad():
        found = twin(**example) if isinstance(example, dict) else twin(example)
    return getattr(found, "logits", found)


class Packed(nn.Module):
    """Pre-norm attention by torch's own module."""

    def __init__(self, need_weights: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.last = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 5)
        self.need_weights = need_weights

    def forward(self, tokens):
        stream = self.embed(tokens)
        normed = self.norm(stream)
        mixed, _ = self.attention(normed, normed, normed, need_weights=self.need_weights)
        return self.head(self.last(stream + mixed))


class Plain(nn.Module):
    """Attention in products, RMSNorm of torch, class token, position parameters, convolution at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, WIDTH, 2, 2)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.place = nn.Parameter(torch.randn(1, 8, WIDTH))
        self.norm = nn.RMSNorm(WIDTH)
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
        self.out = nn.Linear(WIDTH, WIDTH)
        self.last = nn.RMSNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 5, bias=False)

    def split(self, tensor):
        return tensor.view(*tensor.shape[:2], HEADS, -1).transpose(1, 2)

    def forward(self, images):
        stream = self.patch(images).flatten(2).transpose(1, 2)
        stream = torch.cat([self.token.expand(len(images), -1, -1), stream], 1) + self.place[:, :5]
        normed = self.norm(stream)
        query, key, value = (self.split(f(normed)) for f in (self.query, self.key, self.value))
        scores = torch.matmul(query * 0.5, key.transpose(-1, -2)).softmax(-1)
        stream = stream + self.out(torch.matmul(scores, value).transpose(1, 2).flatten(2))
        return self.head(self.last(stream)[:, 0])


IMAGES = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(1)).double()


def llama() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=11, hidden_size=12, intermediate_size=10, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=4, use_cache=False,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def gpt2(**settings) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=11, n_positions=8, n_embd=12, n_layer=1, n_head=3, use_cache=False, bos_token_id=0,
        eos_token_id=0, **settings,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


CASES = {
    "transformer": (lambda: Transformer(TOKENS, 6, WIDTH, HEADS, 2), EXAMPLE, 1, 12),
    "packed": (Packed, EXAMPLE, 1, 6),
    "packed, weights": (lambda: Packed(True), EXAMPLE, 1, 6),
    "plain": (Plain, IMAGES, 1, 6),
    "llama": (llama, {"input_ids": EXAMPLE}, 1, 4),
    "gpt2": (gpt2, {"input_ids": EXAMPLE}, 0, 6),
}


def counted(symmetry) -> tuple[int, int]:
    streams = sum(basis.kind == "residual" for basis in symmetry.bases)
    return streams, len(symmetry.bases) - streams


# -- what is found, and that the function stays -----------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_the_function_stays_after_folding_and_after_every_change_of_basis(name):
    build, example, streams, circuits = CASES[name]
    torch.manual_seed(0)
    module = lively(build())
    found = discover_bases(module, example)
    assert counted(found) == (streams, circuits)
    assert found.verification is not None
    assert found.verification.passed
    assert not found.verification.powerless
    start = Weights.from_module(module)
    before = output(module, start, example)
    folded = found.fold(start)
    close = 1e-5 if name == "llama" else 1e-9  # its norms compute in float32; `verification` widens them
    assert_close(output(module, folded, example), before, rtol=close, atol=close)
    for fold in found.folds:
        for norm in fold.norms:
            assert norm.scale is None or bool((folded[norm.scale] == 1).all())
            assert norm.bias is None or bool((folded[norm.bias] == 0).all())
    for seed in range(2):
        maps = found.random(torch.Generator().manual_seed(seed))
        moved = found.act(maps, folded)
        assert moved.layout == start.layout  # the original architecture
        assert_close(output(module, moved, example), before, rtol=close, atol=close)
        assert moved.distance(folded) > 0.1 * folded.norm()


def test_a_rotation_that_does_not_keep_the_ones_is_told_from_one_that_does():
    module = lively(Transformer(TOKENS, 6, WIDTH, HEADS, 1))
    found = discover_bases(module, EXAMPLE)
    stream = found.bases[0]
    assert stream.centred
    folded = found.fold(Weights.from_module(module))
    before = output(module, folded)
    generator = torch.Generator().manual_seed(1)
    any_rotation = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64))[0]
    kept = found.random(generator)[stream.name]
    assert_close(kept.sum(0), torch.ones(WIDTH, dtype=torch.float64))
    assert_close(output(module, found.act({stream.name: kept}, folded)), before, rtol=1e-9, atol=1e-9)
    turned = changed({name: folded[name] for name in folded}, [stream], {stream.name: any_rotation})
    vector = torch.cat([turned.get(name, folded[name]).reshape(-1) for name in folded])
    wrong = output(module, Weights(folded.layout, vector, folded.buffers))
    assert float((wrong - before).abs().max()) > 1e-3


def test_an_unfolded_stream_cannot_be_rotated():
    module = lively(Transformer(TOKENS, 6, WIDTH, HEADS, 1))
    found = discover_bases(module, EXAMPLE)
    start = Weights.from_module(module)
    maps = {found.bases[0].name: found.random(torch.Generator().manual_seed(1))[found.bases[0].name]}
    assert float((output(module, found.act(maps, start)) - output(module, start)).abs().max()) > 1e-3


def test_folding_twice_is_folding_once():
    module = lively(Transformer(TOKENS, 6, WIDTH, HEADS, 1))
    found = discover_bases(module, EXAMPLE)
    once = found.fold(Weights.from_module(module))
    assert_close(found.fold(once).vector, once.vector, rtol=0, atol=1e-12)


def test_what_is_folded_is_said():
    found = discover_bases(Transformer(TOKENS, 6, WIDTH, HEADS, 1), EXAMPLE)
    assert "the scale norm.weight is multiplied into head.weight, and is 1" in found.folding
    assert "the bias norm.bias is added, through head.weight, to head.bias, and is 0" in found.folding
    assert any("is taken off token.weight[1], position.weight[1]" in line for line in found.folding)


def test_query_heads_that_share_keys_share_their_map():
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.value = nn.Linear(8, 16), nn.Linear(8, 8), nn.Linear(8, 8)
            self.out = nn.Linear(16, 3)

        def forward(self, x):
            query = self.query(x).view(2, 5, 4, 4).transpose(1, 2)
            key, value = (f(x).view(2, 5, 2, 4).transpose(1, 2) for f in (self.key, self.value))
            mixed = functional.scaled_dot_product_attention(query, key, value, enable_gqa=True)
            return self.out(mixed.transpose(1, 2).flatten(2))

    found = discover_bases(Grouped(), torch.randn(2, 5, 8))
    assert counted(found) == (0, 4)
    assert [place.index.shape[0] for place in found.bases[0].places] == [2, 2, 1, 1]
    assert [place.index.shape[0] for place in found.bases[-1].places] == [1, 1, 2]
    assert found.verification is not None
    assert found.verification.passed


# -- what is refused --------------------------------------------------------------------------------


class Variant(nn.Module):
    """A block with one thing that a rotation does not commute with."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.embed = nn.Embedding(TOKENS, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 16, bias=fault != "no bias")
        self.down = nn.Linear(16, WIDTH)
        self.last = nn.RMSNorm(WIDTH) if fault == "both" else nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 5)
        self.raw = nn.Linear(WIDTH, 16)

    def forward(self, tokens):
        stream = self.embed(tokens)
        normed = self.norm(stream)
        if self.fault == "doubled":
            normed = normed * 2.0
        hidden = self.up(normed)
        hidden = hidden + self.raw(stream) if self.fault == "raw" else hidden
        stream = stream + self.down(functional.gelu(hidden))
        stream = functional.relu(stream) if self.fault == "relu" else stream
        stream = stream + 1.0 if self.fault == "constant" else stream
        stream = stream + self.up(self.norm(stream))[..., :WIDTH] if self.fault == "twice" else stream
        stream = self.norm(stream) + stream if self.fault == "post" else stream
        result = self.head(self.last(stream))
        return (result, stream) if self.fault == "returned" else result


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("relu", "it goes through relu"),
        ("raw", "raw.weight reads it without a norm between"),
        ("no bias", "norm.bias has nowhere to go: up.weight, which reads it, has no bias"),
        ("returned", "it comes out of the module as 1"),
        ("constant", "it goes through add"),
        ("post", r"the norm's output goes on as the stream, by add \(post-norm\)"),
        ("both", "some of its norms subtract the mean and others do not"),
        ("twice", "is used by more than one operation|goes through"),
        ("doubled", "its norm's output goes through mul"),
    ],
)
def test_a_stream_is_refused_with_the_operation_named(fault, reason):
    found = discover_bases(Variant(fault), EXAMPLE)
    assert not found.bases
    assert not found.folds
    assert _says(found.refused, reason)


def _says(refused, reason: str) -> bool:

    return any(re.search(reason, sentence) for sentence in refused.values())


def test_the_variant_without_a_fault_is_found():
    assert counted(discover_bases(Variant("none"), EXAMPLE)) == (1, 0)


def test_rotary_embeddings_are_refused():
    found = discover_bases(llama(), {"input_ids": EXAMPLE})
    assert _says(found.refused, "through add in model.layers.0.self_attn, as a rotary embedding does")
    assert not any(basis.kind == "query-key" for basis in found.bases)


def test_tied_embeddings_are_refused():
    found = discover_bases(gpt2(), {"input_ids": EXAMPLE})
    assert _says(found.refused, "transformer.wte.weight writes the stream and reads it too")


def test_a_head_without_bias_after_layer_norm_is_refused():
    found = discover_bases(gpt2(tie_word_embeddings=False), {"input_ids": EXAMPLE})
    assert _says(found.refused, "ln_f.bias has nowhere to go: lm_head.weight")


def test_post_norm_is_refused():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=11, hidden_size=12, num_hidden_layers=1, num_attention_heads=3, intermediate_size=10,
        max_position_embeddings=8,
    )  # fmt: skip
    found = discover_bases(transformers.BertForMaskedLM(config), {"input_ids": EXAMPLE})
    assert counted(found) == (0, 6)
    assert _says(found.refused, "post-norm")


def test_circuits_whose_channels_are_used_elsewhere_are_refused():
    class Leaky(Packed):
        def forward(self, tokens):
            x = self.embed(tokens)
            query, key, value = functional.linear(
                x, self.attention.in_proj_weight, self.attention.in_proj_bias
            ).chunk(3, -1)
            query, key, value = (t.view(2, 6, 3, 4).transpose(1, 2) for t in (query, key, value))
            mixed = functional.scaled_dot_product_attention(query, key, value)
            leak = key[:, 1].sum(-1, keepdim=True)
            return self.head(self.attention.out_proj(mixed.transpose(1, 2).flatten(2)) + leak)

    found = discover_bases(Leaky(), EXAMPLE)
    kinds = [basis.kind for basis in found.bases]
    assert (kinds.count("query-key"), kinds.count("value-output")) == (2, 3)  # the second head's keys leak
    assert _says(found.refused, "its channels go through sum too")


def test_a_norm_of_queries_is_refused():
    class Normed(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.LayerNorm(WIDTH // HEADS)

        def split(self, tensor):
            return self.inner(super().split(tensor))

    found = discover_bases(Normed().double(), IMAGES)
    assert counted(found) == (1, 0)
    assert _says(found.refused, "queries come to matmul through layer_norm")
    assert _says(found.refused, "values come to matmul through layer_norm")


# -- records ----------------------------------------------------------------------------------------


def test_unknown_bases_and_other_layouts_are_refused():
    found = discover_bases(Transformer(TOKENS, 6, WIDTH, HEADS, 1), EXAMPLE, verify=False)
    weights = Weights.from_module(Transformer(TOKENS, 6, WIDTH, HEADS, 1))
    assert found.verification is None
    with pytest.raises(SymmetryError, match="there is no basis 'other'"):
        found.act({"other": torch.eye(3)}, weights)
    with pytest.raises(SymmetryError, match="do not fit"):
        found.fold(Weights.from_module(Transformer(TOKENS, 6, WIDTH, HEADS, 2)))


def test_a_place_against_its_formula():
    generator = torch.Generator().manual_seed(0)
    tensor = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    matrix = torch.randn(2, 2, generator=generator, dtype=torch.float64)
    index = torch.tensor([[3, 0], [5, 1]])
    places = (BasisPlace("w", 1, index), BasisPlace("v", 1, index, True))
    basis = Basis("b", "query-key", 2, places)
    new = changed({"w": tensor, "v": tensor}, [basis], {"b": matrix})
    for name, acting in (("w", matrix), ("v", torch.linalg.inv(matrix).T)):
        expected = tensor.clone()
        for group in index.tolist():
            for j in range(2):
                expected[:, group[j]] = sum(tensor[:, group[i]] * acting[i, j] for i in range(2))
        assert_close(new[name], expected)


class Wired(nn.Module):
    """A plain pre-norm stream, wired in ways that trip a reader of the graph."""

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self.fault = fault
        self.embed = nn.Embedding(TOKENS, WIDTH)
        self.place = nn.Parameter(torch.randn(1, 8, WIDTH))
        self.shift, self.gain = nn.Parameter(torch.randn(WIDTH)), nn.Parameter(torch.randn(WIDTH))
        self.norm, self.last = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.up, self.down, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, tokens):
        place = self.place[:, : tokens.shape[1]]
        stream = self.embed(tokens) + place
        if self.fault == "places twice":
            stream = stream + place
        normed = self.norm(stream)
        if self.fault == "bias before scale":
            normed = functional.layer_norm(stream, (WIDTH,), None, self.shift) * self.gain
        hidden = torch.tanh(self.up(normed))
        if self.fault == "in place":
            hidden = hidden.transpose(0, 1).contiguous().mul_(2.0).transpose(0, 1)
            hidden = hidden.reshape(*hidden.shape[:2], HEADS, -1).flatten(2)
        return self.head(self.last(stream + self.down(hidden)))


@pytest.mark.parametrize(
    ("fault", "streams"), [("", 1), ("places twice", 0), ("bias before scale", 0), ("in place", 1)]
)
def test_odd_wiring_is_proved_or_refused_before_the_proof(fault, streams):
    """What the rules say must hold without the proof: nothing may be left to it."""
    module = lively(Wired(fault))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the proof warns where a rule was wrong
        found = discover_bases(module, EXAMPLE)
    assert len(found.bases) == streams
    start = Weights.from_module(module)
    expected = output(module, start)
    changed_basis = found.act(found.random(torch.Generator().manual_seed(1)), found.fold(start))
    assert_close(output(module, changed_basis), expected, rtol=1e-9, atol=1e-9)


def test_maps_that_would_change_the_function_are_refused():
    module = lively(Transformer(TOKENS, context=8, width=WIDTH, heads=HEADS, layers=1))
    found = discover_bases(module, EXAMPLE, verify=False)
    folded = found.fold(Weights.from_module(module))
    stream = next(basis for basis in found.bases if basis.kind == "residual")
    circuit = next(basis for basis in found.bases if basis.kind != "residual")
    random = torch.randn(stream.size, stream.size, generator=torch.Generator().manual_seed(0))
    turn = torch.linalg.qr(random.double())[0]  # a rotation that does not keep the direction of ones
    for basis, matrix, message in (
        (stream, torch.eye(stream.size) * 2, "is orthogonal"),
        (stream, turn, "keeps the direction of ones"),
        (stream, torch.eye(stream.size + 1), "of shape"),
        (circuit, torch.zeros(circuit.size, circuit.size), "singular"),
    ):
        with pytest.raises(SymmetryError, match=message):
            found.act({basis.name: matrix}, folded)
