"""Rescalings of the transformers library's models, counted by hand; skipped where it is not installed."""

from __future__ import annotations

import pytest
import torch

from isthmus.symmetry.rescale import discover_rescalings

transformers = pytest.importorskip("transformers")

TOKENS = torch.arange(12).view(2, 6)
SHAPE = {"hidden_size": 32, "num_attention_heads": 4, "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2}
GROUPED = SHAPE | {"num_key_value_heads": 2, "pad_token_id": 0}


def gpt2():
    settings = {"n_layer": 2, "n_head": 4, "n_embd": 32, "vocab_size": 50, "n_positions": 16}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**settings, bos_token_id=1, eos_token_id=2))


def llama():
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**GROUPED, num_hidden_layers=2, intermediate_size=48)
    )


def mixtral():
    settings = {"num_hidden_layers": 1, "intermediate_size": 24, "num_local_experts": 4}
    return transformers.MixtralForCausalLM(transformers.MixtralConfig(**GROUPED, **settings))


# In every layer the outputs of two norms, q with k, v with o, and gated units; then the last norm; for signs
# the stream. Rotary positions turn planes: one factor for each of the 4 planes of the 2 key heads.
LAYER = 2 * 32 + 2 * 4 + 2 * 8
COUNTED = {
    # The head is tied to the embedding, which layer norm keeps from being scaled: the last norm is not free.
    "gpt2": (gpt2, 2 * 4 * 32, 2 * 4 * 32 + 1),
    "llama": (llama, 2 * (LAYER + 48) + 32, 2 * (LAYER + 48) + 32 + 32),
    "mixtral": (mixtral, LAYER + 4 * 24 + 32, LAYER + 4 * 24 + 32 + 32),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["positive", "sign"])
@pytest.mark.parametrize("name", COUNTED)
def test_models_have_the_dimension_counted_by_hand(name, kind):
    build, *dimensions = COUNTED[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build().eval()
    inputs = {"input_ids": TOKENS, "use_cache": False}
    group = discover_rescalings(model, inputs, ["logits"], kind=kind)
    assert group.verification.passed
    assert group.dimension == dimensions[kind == "sign"]
    assert not any("no rule" in reason for reason in group.pinned.values())
