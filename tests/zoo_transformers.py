"""The zoo: models of the library transformers, tiny and random, with their orders written out by hand.

Every builder imports the library itself, so that the zoo can be listed without it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cases import Case, Integers, Joined, L
from zoo_tokens import heads

TOKENS = {"input_ids": Integers((2, 6), 19)}
LOGITS = ("logits",)


def built(model: str, config: str, experts: str = "", **settings: Any) -> nn.Module:
    """A model of this class with random weights, without a cache and with attention of torch's own."""
    import transformers

    settings = {"use_cache": False, "attn_implementation": "sdpa"} | settings
    if experts:
        settings["experts_implementation"] = experts
    return getattr(transformers, model)(getattr(transformers, config)(**settings))


DECODER = {
    "vocab_size": 19, "hidden_size": 24, "intermediate_size": 14, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "max_position_embeddings": 32,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None,
}  # fmt: skip


def grouped_heads(groups: int, queries: int, width: int) -> float:
    """The own units of grouped-query attention with rotary positions.

    The groups of heads that share keys and values change places; in each the heads of queries do; and the
    units of its values, which go through to the columns of the output projection of all heads of the group.
    Rotary positions turn the units of queries and keys in pairs, every pair at a frequency of its own: they
    stay. (A pair's two units may not change places either: that would turn it backwards.)
    """
    return L(groups) + groups * (L(queries) + L(width))


def gpt2() -> nn.Module:
    return built(
        "GPT2LMHeadModel", "GPT2Config", vocab_size=19, n_positions=10, n_embd=16, n_layer=2, n_head=4,
        n_inner=20, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip


def bert() -> nn.Module:
    return built(
        "BertForSequenceClassification", "BertConfig", vocab_size=19, hidden_size=16, num_hidden_layers=2,
        num_attention_heads=4, intermediate_size=20, max_position_embeddings=10, num_labels=3,
    )  # fmt: skip


def t5(**settings: Any) -> nn.Module:
    return built(
        "T5ForConditionalGeneration", "T5Config", vocab_size=19, d_model=12, d_kv=4, num_heads=3, d_ff=14,
        num_layers=2, num_decoder_layers=2, relative_attention_num_buckets=8,
        relative_attention_max_distance=9, decoder_start_token_id=0, attn_implementation="eager", **settings,
    )  # fmt: skip


def vit() -> nn.Module:
    return built(
        "ViTForImageClassification", "ViTConfig", hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=20, image_size=8, patch_size=4, num_labels=3,
    )  # fmt: skip


def whisper() -> nn.Module:
    return built(
        "WhisperForConditionalGeneration", "WhisperConfig", vocab_size=19, num_mel_bins=6, d_model=12,
        encoder_layers=2, decoder_layers=2, encoder_attention_heads=3, decoder_attention_heads=3,
        encoder_ffn_dim=14, decoder_ffn_dim=15, max_source_positions=8, max_target_positions=4,
        decoder_start_token_id=1, pad_token_id=0, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip


def all_experts(self: nn.Module, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """Run all experts on all tokens, and weigh what comes out: a static graph for routed experts."""
    gates = torch.zeros(x.shape[0], self.num_experts, dtype=weights.dtype).scatter(1, chosen, weights)
    gate, up = torch.einsum("nd,efd->nef", x, self.gate_up_proj).chunk(2, -1)
    return torch.einsum("ne,nef,edf->nd", gates, self.act_fn(gate) * up, self.down_proj)


def mixtral(experts: str = "") -> nn.Module:
    if experts == "all":
        from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

        ALL_EXPERTS_FUNCTIONS.register("all", all_experts)
    return built(
        "MixtralForCausalLM", "MixtralConfig", experts, num_local_experts=4, num_experts_per_tok=2, **DECODER
    )


def mamba() -> nn.Module:
    return built(
        "MambaForCausalLM", "MambaConfig", vocab_size=19, hidden_size=10, state_size=4, num_hidden_layers=2,
        expand=2, conv_kernel=3, time_step_rank=3, bos_token_id=0, eos_token_id=1, attn_implementation=None,
    )  # fmt: skip


def decoder_joined(tied: bool) -> tuple[Joined, ...]:
    """What every Llama-like decoder joins."""
    layers = "model.layers"
    table = "" if tied else " lm_head.weight[1]"
    return (
        Joined(
            f"model.embed_tokens.weight[1] {layers}.0.input_layernorm.weight[0] "
            f"{layers}.0.self_attn.q_proj.weight[1] {layers}.1.self_attn.o_proj.weight[0] "
            f"model.norm.weight[0]{table}", 24, within=0,
        ),
        # The groups: through the axes of single heads and of value units below them.
        Joined(
            f"{layers}.0.self_attn.q_proj.weight[0] {layers}.0.self_attn.k_proj.weight[0] "
            f"{layers}.0.self_attn.v_proj.weight[0] {layers}.0.self_attn.o_proj.weight[1]", 2, within=0,
        ),
        Joined(f"{layers}.0.self_attn.v_proj.weight[0] {layers}.0.self_attn.o_proj.weight[1]", 12, within=2),
    )  # fmt: skip


# The vocabulary is pinned by the tokens that come in, and by the logits.
TRANSFORMERS = (
    Case(
        "gpt2", gpt2, TOKENS,
        # The table of tokens is also the head; positions are added to it: all one stream.
        L(16) + 2 * (heads(4, 4) + L(20)), LOGITS,
        joined=(
            Joined(
                "transformer.wte.weight[1] transformer.wpe.weight[1] transformer.h.0.ln_1.weight[0] "
                "transformer.h.0.attn.c_attn.weight[0] transformer.h.0.attn.c_proj.weight[1] "
                "transformer.h.1.mlp.c_fc.weight[0] transformer.h.1.mlp.c_proj.bias[0]", 16, within=0,
            ),
            Joined("transformer.h.0.attn.c_attn.weight[1] transformer.h.0.attn.c_proj.weight[0]", 4),
            Joined("transformer.h.0.attn.c_attn.weight[1] transformer.h.0.attn.c_proj.weight[0]", 16, 4),
            Joined("transformer.h.1.mlp.c_fc.weight[1] transformer.h.1.mlp.c_proj.weight[0]", 20, within=0),
        ),
        needs="transformers",
    ),
    Case(
        "bert", bert, {"input_ids": Integers((2, 6), 19), "token_type_ids": Integers((2, 6), 2)},
        # The stream, and the pooler's own width behind it.
        2 * L(16) + 2 * (heads(4, 4) + L(20)), LOGITS,
        joined=(
            Joined(
                "bert.embeddings.word_embeddings.weight[1] bert.embeddings.position_embeddings.weight[1] "
                "bert.embeddings.token_type_embeddings.weight[1] bert.embeddings.LayerNorm.weight[0] "
                "bert.encoder.layer.1.output.dense.weight[0] bert.pooler.dense.weight[1]", 16, within=0,
            ),
            Joined("bert.pooler.dense.weight[0] bert.pooler.dense.bias[0] classifier.weight[1]", 16, 0),
        ),
        needs="transformers",
    ),
    Case(
        "llama", lambda: built("LlamaForCausalLM", "LlamaConfig", **DECODER), TOKENS,
        L(24) + 2 * (grouped_heads(2, 2, 6) + L(14)), LOGITS, decoder_joined(tied=False), "transformers",
    ),
    Case(
        "qwen2", lambda: built("Qwen2ForCausalLM", "Qwen2Config", tie_word_embeddings=True, **DECODER),
        TOKENS,
        L(24) + 2 * (grouped_heads(2, 2, 6) + L(14)), LOGITS, decoder_joined(tied=True), "transformers",
    ),
    Case(
        # The norms of queries and keys have a gain for every unit of a head: the same in all heads.
        "qwen3", lambda: built("Qwen3ForCausalLM", "Qwen3Config", **DECODER), TOKENS,
        L(24) + 2 * (grouped_heads(2, 2, 6) + L(14)), LOGITS, decoder_joined(tied=False), "transformers",
    ),
    *(
        Case(
            # Attention as in Llama; the experts with their rows of the router, in each its own hidden units.
            name, lambda experts=experts: mixtral(experts), TOKENS,
            L(24) + 2 * (grouped_heads(2, 2, 6) + L(4) + 4 * L(14)), LOGITS,
            (
                *decoder_joined(tied=False),
                Joined(
                    "model.layers.0.mlp.gate.weight[0] model.layers.0.mlp.experts.gate_up_proj[0] "
                    "model.layers.0.mlp.experts.down_proj[0]", 4, within=0,
                ),
                Joined(
                    "model.layers.0.mlp.experts.gate_up_proj[1] model.layers.0.mlp.experts.down_proj[2]",
                    56, within=4,
                ),
            ),
            "transformers",
        )
        for name, experts in (("mixtral", ""), ("mixtral_all_experts", "all"))
    ),
    Case(
        "t5", t5, TOKENS | {"decoder_input_ids": Integers((2, 4), 19)},
        # One table of tokens for both stacks: one stream. The biases of the first layer's heads are added in
        # all layers of a stack, so that all its layers have their heads in one order. Cross attention has
        # no biases.
        L(12)
        + L(3) + 2 * (3 * 2 * L(4) + L(14))
        + L(3) + 2 * (3 * 2 * L(4) + heads(3, 4) + L(14)),
        LOGITS,
        joined=(
            Joined(
                "shared.weight[1] encoder.final_layer_norm.weight[0] "
                "decoder.block.0.layer.1.EncDecAttention.k.weight[1] "
                "decoder.block.0.layer.1.EncDecAttention.q.weight[1] decoder.final_layer_norm.weight[0]",
                12, within=0,
            ),
            Joined(
                "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight[1] "
                "encoder.block.0.layer.0.SelfAttention.q.weight[0] "
                "encoder.block.1.layer.0.SelfAttention.v.weight[0] "
                "encoder.block.1.layer.0.SelfAttention.o.weight[1]", 3, within=0,
            ),
            Joined(
                "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight[1] "
                "decoder.block.1.layer.0.SelfAttention.k.weight[0]", 3, within=0,
            ),
            Joined(
                "decoder.block.1.layer.1.EncDecAttention.v.weight[0] "
                "decoder.block.1.layer.1.EncDecAttention.o.weight[1]", 12, within=3,
            ),
        ),
        needs="transformers",
    ),
    Case(
        "t5_gated", lambda: t5(feed_forward_proj="gated-gelu", tie_word_embeddings=False),
        TOKENS | {"decoder_input_ids": Integers((2, 4), 19)},
        L(12)
        + L(3) + 2 * (3 * 2 * L(4) + L(14))
        + L(3) + 2 * (3 * 2 * L(4) + heads(3, 4) + L(14)),
        LOGITS,
        joined=(
            Joined(
                "encoder.block.0.layer.1.DenseReluDense.wi_0.weight[0] "
                "encoder.block.0.layer.1.DenseReluDense.wi_1.weight[0] "
                "encoder.block.0.layer.1.DenseReluDense.wo.weight[1]", 14, within=0,
            ),
        ),
        needs="transformers",
    ),
    Case(
        "vit", vit, {"pixel_values": (2, 3, 8, 8)}, L(16) + 2 * (heads(4, 4) + L(20)), LOGITS,
        joined=(
            Joined(
                "vit.embeddings.cls_token[2] vit.embeddings.position_embeddings[2] "
                "vit.embeddings.patch_embeddings.projection.weight[0] classifier.weight[1]", 16, within=0,
            ),
        ),
        needs="transformers",
    ),
    Case(
        "whisper", whisper, {"input_features": (2, 6, 16), "decoder_input_ids": Integers((2, 4), 19)},
        # Between the two convolutions; the encoder's stream; the decoder's, whose table is also the head.
        L(12)
        + L(12) + 2 * (heads(3, 4) + L(14))
        + L(12) + 2 * (2 * heads(3, 4) + L(15)),
        LOGITS,
        joined=(
            Joined(
                "model.encoder.conv1.weight[0] model.encoder.conv1.bias[0] model.encoder.conv2.weight[1]",
                12, within=0,
            ),
            Joined(
                "model.encoder.conv2.weight[0] model.encoder.embed_positions.weight[1] "
                "model.encoder.layer_norm.bias[0] model.decoder.layers.0.encoder_attn.k_proj.weight[1] "
                "model.decoder.layers.1.encoder_attn.v_proj.weight[1]", 12, within=0,
            ),
            Joined(
                "model.decoder.embed_tokens.weight[1] model.decoder.embed_positions.weight[1] "
                "model.decoder.layers.0.encoder_attn.q_proj.weight[1] model.decoder.layer_norm.weight[0]",
                12, within=0,
            ),
        ),
        needs="transformers",
    ),
    Case(
        "mamba", mamba, TOKENS,
        # The stream; in both layers the channels, the rank of the step size, and the states.
        L(10) + 2 * (L(20) + L(3) + L(4)), LOGITS,
        joined=(
            Joined(
                "backbone.layers.0.mixer.in_proj.weight[0] backbone.layers.0.mixer.conv1d.weight[0] "
                "backbone.layers.0.mixer.x_proj.weight[1] backbone.layers.0.mixer.dt_proj.weight[0] "
                "backbone.layers.0.mixer.A_log[0] backbone.layers.0.mixer.D[0] "
                "backbone.layers.0.mixer.out_proj.weight[1]", 20, within=0,
            ),
            Joined("backbone.layers.1.mixer.x_proj.weight[0] backbone.layers.1.mixer.A_log[1]", 4, within=0),
        ),
        needs="transformers",
    ),
)  # fmt: skip
