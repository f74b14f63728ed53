"""The zoo: every network's group is sound, has the order written by hand, and joins what belongs together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cases import Calls, Case, Integers, L, symmetry_of
from isthmus.errors import SymmetryWarning
from isthmus.symmetry import Symmetry, discover
from isthmus.weights import Weights
from zoo_laws import assert_group, assert_joined, assert_nothing_pinned, assert_saved, assert_sound
from zoo_sequences import SEQUENCES
from zoo_tokens import TOKENS
from zoo_transformers import TRANSFORMERS
from zoo_vision import VISION

ZOO: dict[str, Case] = {case.name: case for case in (*VISION, *TOKENS, *SEQUENCES, *TRANSFORMERS)}

each = pytest.mark.parametrize("name", ZOO)


def of(name: str) -> tuple[Case, Symmetry]:
    """A case and its symmetry; the test is skipped where the case's library is not installed."""
    case = ZOO[name]
    if case.needs:
        pytest.importorskip(case.needs)
    return case, symmetry_of(case)


@each
def test_a_random_element_leaves_the_function_as_it_is(name):
    case, symmetry = of(name)
    assert symmetry.layout.numel < 60_000
    module = case.module()
    if hasattr(module, "set_experts_implementation"):
        module.set_experts_implementation("eager")  # grouped matrix products know no float64
    assert_sound(symmetry, module, case.example(), case.outputs)


@each
def test_the_group_has_the_order_written_by_hand(name):
    case, symmetry = of(name)
    assert symmetry.log2_order == pytest.approx(case.log2_order, abs=1e-9)


@pytest.mark.parametrize("name", [name for name in ZOO if ZOO[name].joined])
def test_what_belongs_together_lies_on_one_axis(name):
    case, symmetry = of(name)
    for joined in case.joined:
        assert_joined(symmetry, joined)


@each
def test_nothing_had_to_be_pinned_by_verification_and_controls_fire(name):
    assert_nothing_pinned(of(name)[1])


@each
def test_group_laws(name):
    case, symmetry = of(name)
    assert_group(symmetry, Weights.from_module(case.module()))


@each
def test_saved_symmetries_and_alignments_load_back_equal(name):
    case, symmetry = of(name)
    assert_saved(symmetry, Weights.from_module(case.module()))


# -- other inputs than the example ----------------------------------------------------------------


def resized(inputs: Any, tokens: int) -> Any:
    """The same inputs with another number of tokens."""
    if isinstance(inputs, Integers):
        return Integers((*inputs.shape[:-1], tokens), inputs.below)
    if isinstance(inputs, dict):
        return {name: resized(item, tokens) for name, item in inputs.items()}
    if isinstance(inputs, tuple) and not all(isinstance(size, int) for size in inputs):
        return tuple(resized(item, tokens) for item in inputs)
    return inputs


OF_ANY_LENGTH = (
    "language_model", "attentive_translator", "state_space", "seq2seq", "gpt2", "bert", "llama", "qwen3",
    "t5", "mamba",
)  # fmt: skip


@pytest.mark.parametrize("name", OF_ANY_LENGTH)
def test_what_was_found_on_six_tokens_holds_on_nine(name):
    case, symmetry = of(name)
    assert_sound(
        symmetry, case.module(), replace(case, inputs=resized(case.inputs, 9)).example(), case.outputs
    )


def rotated(x: Tensor) -> Tensor:
    """Rotary positions: units i and i + 2 are turned by an angle that grows with the place."""
    angles = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * x.new_tensor([1.0, 0.1, 1.0, 0.1])
    return x * angles.cos() + torch.cat([-x[..., 2:], x[..., :2]], -1) * angles.sin()


def test_one_token_tells_too_little_and_that_is_said():
    """With one token all rotary angles are zero."""

    def forward(m, x):
        x = m.embed(x)
        q, k, v = (layer(x).unflatten(-1, (3, 4)).transpose(1, 2) for layer in (m.q, m.k, m.v))
        y = F.scaled_dot_product_attention(rotated(q), rotated(k), v)
        return m.head(y.transpose(1, 2).flatten(2))

    def build():
        projections = {name: nn.Linear(6, 12) for name in "qkv"}
        return Calls(forward, embed=nn.Embedding(11, 6), head=nn.Linear(12, 3), **projections)

    case = Case("", build, Integers((2, 6), 11), L(6) + L(3) + 3 * L(4))
    assert symmetry_of(case).log2_order == pytest.approx(case.log2_order)
    with pytest.warns(SymmetryWarning, match=r"a single token.*at least two tokens"):
        discover(case.module(), replace(case, inputs=resized(case.inputs, 1)).example())


def test_positions_beyond_the_example_do_not_move():
    """As in Whisper's decoder, whose table is cut to the length of the input."""

    def build():
        module = Calls(
            lambda m, x: m.head(torch.tanh(m.embed(x) + m.positions[: x.shape[1]])),
            embed=nn.Embedding(11, 6), head=nn.Linear(6, 3),
        )  # fmt: skip
        module.positions = nn.Parameter(torch.zeros(9, 6))
        return module

    case = Case("", build, Integers((2, 4), 11), L(6))
    longer = replace(case, inputs=resized(case.inputs, 9)).example()
    assert_sound(symmetry_of(case), case.module(), longer)


def test_the_zoo_is_large_and_its_names_differ():
    assert len(ZOO) == sum(map(len, (VISION, TOKENS, SEQUENCES, TRANSFORMERS))) >= 36
