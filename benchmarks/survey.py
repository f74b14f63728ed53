"""`discover` on real architectures of public families: soundness, coverage, and its cost beside the export's.

    python -m benchmarks.survey transformers|torchvision|timm [name …]

transformers is in the `dev` extra; torchvision and timm are used where they are installed. Every model is
built with random weights. Each line says how long `torch.export` took, how long discovery with its proof, the
share of parameters that can move, the proof's error, and what the proof had to pin: a defect, if anything.
"""

from __future__ import annotations

import importlib
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn

import isthmus as im

Build = Callable[[], tuple[nn.Module, object, list[str] | None]]

TORCHVISION = (
    "alexnet vgg11_bn resnet18 resnet50 resnext50_32x4d wide_resnet50_2 densenet121 googlenet inception_v3 "
    "mobilenet_v2 mobilenet_v3_small shufflenet_v2_x0_5 squeezenet1_1 mnasnet0_5 efficientnet_b0 "
    "efficientnet_v2_s regnet_y_400mf regnet_x_400mf convnext_tiny swin_t swin_v2_t vit_b_32 maxvit_t "
    "fcn_resnet50 deeplabv3_mobilenet_v3_large lraspp_mobilenet_v3_large raft_small r3d_18 mc3_18 "
    "r2plus1d_18 mvit_v1_b s3d swin3d_t"
)
SMALL = "nano atto femto pico xxt tiny _xs _s small lite mini 18 050 _b0 _0_5 26 100"


def torchvision() -> dict[str, Build]:
    """Models of torchvision."""
    from torchvision.models import get_model

    def example(name: str) -> object:
        if name == "raft_small":
            return (torch.randn(1, 3, 128, 128), torch.randn(1, 3, 128, 128))
        if name in ("r3d_18", "mc3_18", "r2plus1d_18", "swin3d_t"):
            return torch.randn(1, 3, 8, 64, 64)
        if name in ("s3d", "mvit_v1_b"):
            return torch.randn(1, 3, 16, 224, 224)
        size = 224 if name in ("maxvit_t", "vit_b_32") else 128 if name == "inception_v3" else 96
        return torch.randn(1, 3, size, size)

    def build(name: str) -> tuple[nn.Module, object, None]:
        options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        if name.startswith(("fcn", "deeplab", "lraspp")):
            options["weights_backbone"] = None
        return get_model(name, weights=None, **options), example(name), None

    return {name: partial(build, name) for name in TORCHVISION.split()}


def timm() -> dict[str, Build]:
    """One small model of each module of timm."""
    library = importlib.import_module("timm")
    models = importlib.import_module("timm.models")

    def build(name: str) -> tuple[nn.Module, object, None]:
        model = library.create_model(name, pretrained=False)
        return model, torch.randn(1, *model.default_cfg.get("input_size", (3, 224, 224))), None

    chosen = set()
    for module in models.list_modules():
        names = models.list_models(module=module)
        small = [name for name in names if any(part in name for part in SMALL.split())] or names
        if small:
            chosen.add(min(small, key=len))
    return {name: partial(build, name) for name in sorted(chosen)}


def transformers() -> dict[str, Build]:
    """Small configurations of transformers' families."""
    T = importlib.import_module("transformers")
    C = {}
    small = {
        "vocab_size": 99,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 37 * 2,
        "max_position_embeddings": 64,
    }

    def lm(cfgname, clsname, **kw):
        def build():
            cfg = getattr(T, cfgname)(**kw)
            cfg.use_cache = False
            torch.manual_seed(0)
            m = getattr(T, clsname)(cfg).eval()
            return m, {"input_ids": torch.randint(0, 90, (2, 9))}, ["logits"]

        return build

    dec = dict(small, num_key_value_heads=2)
    for cfg, cls in [
        ("LlamaConfig", "LlamaForCausalLM"),
        ("MistralConfig", "MistralForCausalLM"),
        ("Qwen2Config", "Qwen2ForCausalLM"),
        ("Qwen3Config", "Qwen3ForCausalLM"),
        ("PhiConfig", "PhiForCausalLM"),
        ("Phi3Config", "Phi3ForCausalLM"),
        ("GemmaConfig", "GemmaForCausalLM"),
        ("Gemma2Config", "Gemma2ForCausalLM"),
        ("StableLmConfig", "StableLmForCausalLM"),
        ("OlmoConfig", "OlmoForCausalLM"),
        ("Olmo2Config", "Olmo2ForCausalLM"),
        ("CohereConfig", "CohereForCausalLM"),
        ("Starcoder2Config", "Starcoder2ForCausalLM"),
        ("GlmConfig", "GlmForCausalLM"),
        ("GraniteConfig", "GraniteForCausalLM"),
        ("SmolLM3Config", "SmolLM3ForCausalLM"),
        ("HeliumConfig", "HeliumForCausalLM"),
        ("NemotronConfig", "NemotronForCausalLM"),
        ("PersimmonConfig", "PersimmonForCausalLM"),
        ("Ernie4_5Config", "Ernie4_5ForCausalLM"),
        ("SeedOssConfig", "SeedOssForCausalLM"),
        ("ArceeConfig", "ArceeForCausalLM"),
        ("ApertusConfig", "ApertusForCausalLM"),
        ("BitNetConfig", "BitNetForCausalLM"),
        ("DiffLlamaConfig", "DiffLlamaForCausalLM"),
        ("Exaone4Config", "Exaone4ForCausalLM"),
    ]:
        kw = dict(dec)
        if "Gemma" in cfg or "Glm" in cfg or "Helium" in cfg:
            kw["head_dim"] = 8
        kw["pad_token_id"] = 0
        C[cls] = lm(cfg, cls, **kw)
    moe = dict(
        dec,
        num_experts=4,
        num_local_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=24,
        shared_expert_intermediate_size=24,
        pad_token_id=0,
    )
    for cfg, cls in [
        ("MixtralConfig", "MixtralForCausalLM"),
        ("Qwen2MoeConfig", "Qwen2MoeForCausalLM"),
        ("Qwen3MoeConfig", "Qwen3MoeForCausalLM"),
        ("OlmoeConfig", "OlmoeForCausalLM"),
        ("PhimoeConfig", "PhimoeForCausalLM"),
        ("GraniteMoeConfig", "GraniteMoeForCausalLM"),
        ("GptOssConfig", "GptOssForCausalLM"),
    ]:
        C[cls] = lm(cfg, cls, **moe)
    C["DeepseekV2"] = lm(
        "DeepseekV2Config",
        "DeepseekV2ForCausalLM",
        **dict(
            small,
            num_key_value_heads=4,
            n_routed_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=24,
            n_shared_experts=1,
            first_k_dense_replace=1,
            kv_lora_rank=16,
            q_lora_rank=16,
            qk_rope_head_dim=4,
            qk_nope_head_dim=4,
            v_head_dim=8,
            n_group=1,
            topk_group=1,
        ),
    )
    C["DeepseekV3"] = lm(
        "DeepseekV3Config",
        "DeepseekV3ForCausalLM",
        **dict(
            small,
            num_key_value_heads=4,
            n_routed_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=24,
            n_shared_experts=1,
            first_k_dense_replace=1,
            kv_lora_rank=16,
            q_lora_rank=16,
            qk_rope_head_dim=4,
            qk_nope_head_dim=4,
            v_head_dim=8,
            n_group=2,
            topk_group=1,
        ),
    )
    C["GPT2"] = lm(
        "GPT2Config", "GPT2LMHeadModel", vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=64
    )
    C["GPTNeo"] = lm(
        "GPTNeoConfig",
        "GPTNeoForCausalLM",
        vocab_size=99,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        max_position_embeddings=64,
    )
    C["GPTJ"] = lm(
        "GPTJConfig",
        "GPTJForCausalLM",
        vocab_size=99,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=64,
        rotary_dim=4,
    )
    C["GPTNeoX"] = lm("GPTNeoXConfig", "GPTNeoXForCausalLM", **small)
    C["GPTBigCode"] = lm(
        "GPTBigCodeConfig",
        "GPTBigCodeForCausalLM",
        vocab_size=99,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=64,
    )
    C["OPT"] = lm(
        "OPTConfig",
        "OPTForCausalLM",
        vocab_size=99,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=64,
        max_position_embeddings=64,
        word_embed_proj_dim=32,
        pad_token_id=0,
    )
    C["Bloom"] = lm("BloomConfig", "BloomForCausalLM", vocab_size=99, hidden_size=32, n_layer=2, n_head=4)
    C["Falcon"] = lm(
        "FalconConfig",
        "FalconForCausalLM",
        vocab_size=99,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    C["MPT"] = lm(
        "MptConfig", "MptForCausalLM", vocab_size=99, d_model=32, n_layers=2, n_heads=4, max_seq_len=64
    )
    C["CodeGen"] = lm(
        "CodeGenConfig",
        "CodeGenForCausalLM",
        vocab_size=99,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=64,
        rotary_dim=4,
    )
    C["CTRL"] = lm(
        "CTRLConfig", "CTRLLMHeadModel", vocab_size=99, n_embd=32, n_layer=2, n_head=4, dff=48, n_positions=64
    )
    C["XGLM"] = lm(
        "XGLMConfig",
        "XGLMForCausalLM",
        vocab_size=99,
        d_model=32,
        num_layers=2,
        attention_heads=4,
        ffn_dim=48,
        max_position_embeddings=64,
    )
    C["BioGpt"] = lm("BioGptConfig", "BioGptForCausalLM", **small)
    C["OpenAIGPT"] = lm(
        "OpenAIGPTConfig",
        "OpenAIGPTLMHeadModel",
        vocab_size=99,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=64,
    )
    C["Mamba"] = lm(
        "MambaConfig", "MambaForCausalLM", vocab_size=99, hidden_size=32, num_hidden_layers=2, state_size=4
    )
    C["Mamba2"] = lm(
        "Mamba2Config",
        "Mamba2ForCausalLM",
        vocab_size=99,
        hidden_size=32,
        num_hidden_layers=2,
        state_size=4,
        head_dim=8,
        num_heads=8,
        n_groups=1,
        chunk_size=8,
    )
    C["FalconMamba"] = lm(
        "FalconMambaConfig",
        "FalconMambaForCausalLM",
        vocab_size=99,
        hidden_size=32,
        num_hidden_layers=2,
        state_size=4,
    )
    C["RWKV"] = lm(
        "RwkvConfig",
        "RwkvForCausalLM",
        vocab_size=99,
        hidden_size=32,
        num_hidden_layers=2,
        attention_hidden_size=32,
    )
    C["RecurrentGemma"] = lm(
        "RecurrentGemmaConfig",
        "RecurrentGemmaForCausalLM",
        **dict(small, num_key_value_heads=1, num_hidden_layers=3, lru_width=32, attention_window_size=8),
    )
    C["Jamba"] = lm(
        "JambaConfig",
        "JambaForCausalLM",
        **dict(
            moe,
            num_hidden_layers=4,
            attn_layer_period=2,
            attn_layer_offset=1,
            expert_layer_period=2,
            expert_layer_offset=1,
            mamba_d_state=4,
            use_mamba_kernels=False,
        ),
    )
    C["Bamba"] = lm(
        "BambaConfig",
        "BambaForCausalLM",
        **dict(
            dec, mamba_n_heads=8, mamba_d_state=4, mamba_d_head=8, mamba_chunk_size=8, attn_layer_indices=[1]
        ),
    )
    enc = dict(small, type_vocab_size=2, pad_token_id=0)
    for cfg, cls in [
        ("BertConfig", "BertForMaskedLM"),
        ("RobertaConfig", "RobertaForMaskedLM"),
        ("ElectraConfig", "ElectraForMaskedLM"),
        ("MPNetConfig", "MPNetForMaskedLM"),
        ("DebertaConfig", "DebertaForMaskedLM"),
        ("DebertaV2Config", "DebertaV2ForMaskedLM"),
        ("AlbertConfig", "AlbertForMaskedLM"),
        ("XLMRobertaConfig", "XLMRobertaForMaskedLM"),
        ("CamembertConfig", "CamembertForMaskedLM"),
        ("ConvBertConfig", "ConvBertForMaskedLM"),
        ("SqueezeBertConfig", "SqueezeBertForMaskedLM"),
        ("MobileBertConfig", "MobileBertForMaskedLM"),
        ("RoFormerConfig", "RoFormerForMaskedLM"),
        ("MegatronBertConfig", "MegatronBertForMaskedLM"),
        ("ErnieConfig", "ErnieForMaskedLM"),
        ("NystromformerConfig", "NystromformerForMaskedLM"),
        ("YosoConfig", "YosoForMaskedLM"),
        ("IBertConfig", "IBertForMaskedLM"),
        ("LongformerConfig", "LongformerForMaskedLM"),
        ("BigBirdConfig", "BigBirdForMaskedLM"),
        ("FNetConfig", "FNetForMaskedLM"),
        ("RemBertConfig", "RemBertForMaskedLM"),
        ("EsmConfig", "EsmForMaskedLM"),
        ("LayoutLMConfig", "LayoutLMForMaskedLM"),
        ("ModernBertConfig", "ModernBertForMaskedLM"),
        ("XmodConfig", "XmodForMaskedLM"),
        ("SplinterConfig", "SplinterForQuestionAnswering"),
        ("CanineConfig", "CanineForSequenceClassification"),
    ]:
        kw = dict(enc)
        if cls.startswith("Electra"):
            kw["embedding_size"] = 16
        if cls.startswith("Albert"):
            kw["embedding_size"] = 16
        if cls.startswith("SqueezeBert"):
            kw["embedding_size"] = 32
        if cls.startswith("Longformer"):
            kw["attention_window"] = 4
        if cls.startswith("Esm"):
            kw.update(mask_token_id=3, token_dropout=True, position_embedding_type="rotary")
        if cls.startswith("MobileBert"):
            kw.update(embedding_size=16, true_hidden_size=16, intra_bottleneck_size=16)
        if cls.startswith("Xmod"):
            kw.update(languages=["en_XX"], default_language="en_XX")
        if cls.startswith("ModernBert"):
            kw.update(pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2)
        b = lm(cfg, cls, **kw)
        if cls in ("SplinterForQuestionAnswering",):

            def b(b=b):
                m, x, _ = b()
                return m, x, ["start_logits", "end_logits"]

        C[cls] = b
    C["DistilBert"] = lm(
        "DistilBertConfig",
        "DistilBertForMaskedLM",
        vocab_size=99,
        dim=32,
        n_layers=2,
        n_heads=4,
        hidden_dim=64,
        max_position_embeddings=64,
    )
    C["XLNet"] = lm(
        "XLNetConfig", "XLNetLMHeadModel", vocab_size=99, d_model=32, n_layer=2, n_head=4, d_inner=64
    )
    C["Funnel"] = lm(
        "FunnelConfig",
        "FunnelForMaskedLM",
        vocab_size=99,
        d_model=32,
        block_sizes=[1, 1],
        n_head=4,
        d_head=8,
        d_inner=64,
        num_decoder_layers=1,
    )
    C["Flaubert"] = lm(
        "FlaubertConfig", "FlaubertWithLMHeadModel", vocab_size=99, emb_dim=32, n_layers=2, n_heads=4
    )
    C["Reformer"] = lm(
        "ReformerConfig",
        "ReformerModelWithLMHead",
        vocab_size=99,
        hidden_size=32,
        num_attention_heads=4,
        attention_head_size=8,
        is_decoder=True,
        axial_pos_shape=[4, 4],
        axial_pos_embds_dim=[16, 16],
        attn_layers=["local"],
        local_attn_chunk_length=4,
        feed_forward_size=64,
    )

    def s2s(cfgname, clsname, **kw):
        def build():
            cfg = getattr(T, cfgname)(**kw)
            cfg.use_cache = False
            torch.manual_seed(0)
            m = getattr(T, clsname)(cfg).eval()
            return (
                m,
                {
                    "input_ids": torch.randint(3, 90, (2, 9)),
                    "decoder_input_ids": torch.randint(3, 90, (2, 7)),
                },
                ["logits"],
            )

        return build

    t5 = {
        "vocab_size": 99,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 48,
        "num_layers": 2,
        "num_heads": 4,
        "pad_token_id": 0,
        "decoder_start_token_id": 0,
    }
    C["T5"] = s2s("T5Config", "T5ForConditionalGeneration", **t5)
    C["MT5"] = s2s("MT5Config", "MT5ForConditionalGeneration", **t5)
    C["LongT5"] = s2s("LongT5Config", "LongT5ForConditionalGeneration", **dict(t5, local_radius=3))
    C["UMT5"] = s2s("UMT5Config", "UMT5ForConditionalGeneration", **t5)
    C["SwitchT"] = s2s(
        "SwitchTransformersConfig",
        "SwitchTransformersForConditionalGeneration",
        **dict(
            t5, num_experts=4, expert_capacity=100, num_sparse_encoder_layers=1, num_sparse_decoder_layers=1
        ),
    )
    bart = {
        "vocab_size": 99,
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "max_position_embeddings": 64,
        "pad_token_id": 1,
        "decoder_start_token_id": 2,
    }
    for cfg, cls in [
        ("BartConfig", "BartForConditionalGeneration"),
        ("MBartConfig", "MBartForConditionalGeneration"),
        ("PegasusConfig", "PegasusForConditionalGeneration"),
        ("MarianConfig", "MarianMTModel"),
        ("BlenderbotConfig", "BlenderbotForConditionalGeneration"),
        ("M2M100Config", "M2M100ForConditionalGeneration"),
        ("PLBartConfig", "PLBartForConditionalGeneration"),
        ("LEDConfig", "LEDForConditionalGeneration"),
        ("MvpConfig", "MvpForConditionalGeneration"),
    ]:
        kw = dict(bart)
        if cls.startswith("LED"):
            kw.update(
                attention_window=4, max_encoder_position_embeddings=64, max_decoder_position_embeddings=64
            )
            kw.pop("max_position_embeddings")
        C[cls] = s2s(cfg, cls, **kw)
    C["NllbMoe"] = s2s(
        "NllbMoeConfig",
        "NllbMoeForConditionalGeneration",
        **dict(bart, num_experts=4, expert_capacity=64, encoder_sparse_step=2, decoder_sparse_step=2),
    )
    C["ProphetNet"] = s2s(
        "ProphetNetConfig",
        "ProphetNetForConditionalGeneration",
        vocab_size=99,
        hidden_size=32,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        num_encoder_layers=2,
        num_decoder_layers=2,
        num_encoder_attention_heads=4,
        num_decoder_attention_heads=4,
        max_position_embeddings=64,
    )

    def vis(cfgname, clsname, shape, outputs=("logits",), key="pixel_values", **kw):
        def build():
            cfg = getattr(T, cfgname)(**kw)
            torch.manual_seed(0)
            m = getattr(T, clsname)(cfg).eval()
            return m, {key: torch.randn(shape)}, list(outputs) if outputs else None

        return build

    v = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "image_size": 32,
        "patch_size": 8,
    }
    for n in [
        "ViT",
        "DeiT",
        "Beit",
        "Data2VecVision",
        "Dinov2",
        "Dinov2WithRegisters",
        "IJepa",
        "ViTMSN",
        "Yolos",
        "VitPose",
    ]:
        C[n] = vis(
            n + "Config",
            {"Yolos": "YolosForObjectDetection", "VitPose": "VitPoseForPoseEstimation"}.get(
                n, n + "ForImageClassification"
            ),
            (1, 3, 32, 32),
            **(dict(v, image_size=[32, 32]) if n == "Yolos" else v),
        )
    C["ConvNext"] = vis(
        "ConvNextConfig",
        "ConvNextForImageClassification",
        (1, 3, 64, 64),
        hidden_sizes=[8, 12, 16, 20],
        depths=[1, 1, 1, 1],
    )
    C["ConvNextV2"] = vis(
        "ConvNextV2Config",
        "ConvNextV2ForImageClassification",
        (1, 3, 64, 64),
        hidden_sizes=[8, 12, 16, 20],
        depths=[1, 1, 1, 1],
    )
    C["ResNetHF"] = vis(
        "ResNetConfig",
        "ResNetForImageClassification",
        (1, 3, 64, 64),
        embedding_size=8,
        hidden_sizes=[8, 12, 16, 20],
        depths=[1, 1, 2, 1],
    )
    C["RegNet"] = vis(
        "RegNetConfig",
        "RegNetForImageClassification",
        (1, 3, 64, 64),
        embedding_size=8,
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 2, 1],
        groups_width=4,
    )
    C["Swin"] = vis(
        "SwinConfig",
        "SwinForImageClassification",
        (1, 3, 32, 32),
        image_size=32,
        patch_size=2,
        embed_dim=16,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
    )
    C["Swinv2"] = vis(
        "Swinv2Config",
        "Swinv2ForImageClassification",
        (1, 3, 32, 32),
        image_size=32,
        patch_size=2,
        embed_dim=16,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
    )
    C["Donut"] = vis(
        "DonutSwinConfig",
        "DonutSwinModel",
        (1, 3, 32, 32),
        None,
        image_size=32,
        patch_size=2,
        embed_dim=16,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
    )
    C["Swin2SR"] = vis(
        "Swin2SRConfig",
        "Swin2SRForImageSuperResolution",
        (1, 3, 16, 16),
        None,
        image_size=16,
        patch_size=1,
        embed_dim=16,
        depths=[2, 2],
        num_heads=[2, 2],
        window_size=4,
    )
    C["MobileNetV1"] = vis(
        "MobileNetV1Config",
        "MobileNetV1ForImageClassification",
        (1, 3, 64, 64),
        depth_multiplier=0.25,
        min_depth=8,
    )
    C["MobileNetV2"] = vis(
        "MobileNetV2Config", "MobileNetV2ForImageClassification", (1, 3, 64, 64), depth_multiplier=0.25
    )
    C["MobileViT"] = vis(
        "MobileViTConfig",
        "MobileViTForImageClassification",
        (1, 3, 64, 64),
        image_size=64,
        hidden_sizes=[12, 16, 20],
        neck_hidden_sizes=[8, 8, 12, 12, 16, 16, 20],
    )
    C["MobileViTV2"] = vis(
        "MobileViTV2Config",
        "MobileViTV2ForImageClassification",
        (1, 3, 64, 64),
        image_size=64,
        width_multiplier=0.25,
    )
    C["EfficientNetHF"] = vis(
        "EfficientNetConfig",
        "EfficientNetForImageClassification",
        (1, 3, 64, 64),
        image_size=64,
        width_coefficient=0.25,
        depth_coefficient=0.5,
        hidden_dim=320,
    )
    C["BitHF"] = vis(
        "BitConfig",
        "BitForImageClassification",
        (1, 3, 64, 64),
        embedding_size=32,
        hidden_sizes=[32, 64, 64, 64],
        depths=[1, 1, 1, 1],
        num_groups=8,
    )
    C["PoolFormer"] = vis(
        "PoolFormerConfig",
        "PoolFormerForImageClassification",
        (1, 3, 64, 64),
        hidden_sizes=[8, 12, 16, 20],
        depths=[1, 1, 1, 1],
    )
    C["LevitHF"] = vis(
        "LevitConfig",
        "LevitForImageClassification",
        (1, 3, 64, 64),
        image_size=64,
        hidden_sizes=[16, 24, 32],
        num_attention_heads=[2, 3, 4],
        key_dim=[4, 4, 4],
        depths=[1, 1, 1],
    )
    C["CvT"] = vis(
        "CvtConfig",
        "CvtForImageClassification",
        (1, 3, 64, 64),
        embed_dim=[8, 16, 24],
        num_heads=[1, 2, 3],
        depth=[1, 1, 2],
    )
    C["PVT"] = vis(
        "PvtConfig",
        "PvtForImageClassification",
        (1, 3, 64, 64),
        image_size=64,
        hidden_sizes=[8, 16, 24, 32],
        num_attention_heads=[1, 2, 3, 4],
        depths=[1, 1, 1, 1],
    )
    C["PVTv2"] = vis(
        "PvtV2Config",
        "PvtV2ForImageClassification",
        (1, 3, 64, 64),
        image_size=64,
        hidden_sizes=[8, 16, 24, 32],
        num_attention_heads=[1, 2, 3, 4],
        depths=[1, 1, 1, 1],
    )
    C["Segformer"] = vis(
        "SegformerConfig",
        "SegformerForSemanticSegmentation",
        (1, 3, 64, 64),
        hidden_sizes=[8, 16, 24, 32],
        num_attention_heads=[1, 2, 3, 4],
        depths=[1, 1, 1, 1],
        decoder_hidden_size=16,
    )
    C["GLPN"] = vis(
        "GLPNConfig",
        "GLPNForDepthEstimation",
        (1, 3, 64, 64),
        None,
        hidden_sizes=[8, 16, 24, 32],
        num_attention_heads=[1, 2, 3, 4],
        depths=[1, 1, 1, 1],
        decoder_hidden_size=16,
    )
    C["FocalNet"] = vis(
        "FocalNetConfig",
        "FocalNetForImageClassification",
        (1, 3, 32, 32),
        image_size=32,
        patch_size=2,
        embed_dim=16,
        depths=[1, 1],
        hidden_sizes=[16, 32],
        focal_levels=[2, 2],
        focal_windows=[3, 3],
    )
    C["SwiftFormerHF"] = vis(
        "SwiftFormerConfig",
        "SwiftFormerForImageClassification",
        (1, 3, 64, 64),
        image_size=64,
        embed_dims=[12, 16, 24, 32],
        depths=[1, 1, 1, 1],
    )
    C["HieraHF"] = vis(
        "HieraConfig",
        "HieraForImageClassification",
        (1, 3, 64, 64),
        image_size=[64, 64],
        embed_dim=16,
        num_heads=[1, 2, 2, 4],
        depths=[1, 1, 1, 1],
        patch_size=[7, 7],
        patch_stride=[4, 4],
        patch_padding=[3, 3],
        masked_unit_size=[8, 8],
    )
    C["Textnet"] = vis("TextNetConfig", "TextNetForImageClassification", (1, 3, 64, 64))
    C["DPT"] = vis(
        "DPTConfig",
        "DPTForSemanticSegmentation",
        (1, 3, 32, 32),
        **dict(
            v,
            patch_size=8,
            num_hidden_layers=4,
            backbone_out_indices=[0, 1, 2, 3],
            neck_hidden_sizes=[8, 12, 16, 16],
            fusion_hidden_size=16,
            is_hybrid=False,
        ),
    )
    C["VideoMAE"] = vis(
        "VideoMAEConfig", "VideoMAEForVideoClassification", (1, 4, 3, 32, 32), **dict(v, num_frames=4)
    )
    C["Timesformer"] = vis(
        "TimesformerConfig", "TimesformerForVideoClassification", (1, 2, 3, 32, 32), **dict(v, num_frames=2)
    )
    C["ViViT"] = vis(
        "VivitConfig",
        "VivitForVideoClassification",
        (1, 4, 3, 32, 32),
        **dict(v, num_frames=4, tubelet_size=[2, 8, 8]),
    )
    C["ViTMAE"] = vis(
        "ViTMAEConfig", "ViTMAEModel", (1, 3, 32, 32), ("last_hidden_state",), **dict(v, mask_ratio=0.0)
    )
    C["SiglipVision"] = vis("SiglipVisionConfig", "SiglipVisionModel", (1, 3, 32, 32), None, **v)
    C["CLIPVision"] = vis(
        "CLIPVisionConfig",
        "CLIPVisionModelWithProjection",
        (1, 3, 32, 32),
        ("image_embeds",),
        **dict(v, projection_dim=16),
    )

    def whisper():
        cfg = T.WhisperConfig(
            vocab_size=99,
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            num_mel_bins=16,
            max_source_positions=20,
            max_target_positions=32,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
            use_cache=False,
        )
        m = T.WhisperForConditionalGeneration(cfg).eval()
        return (
            m,
            {"input_features": torch.randn(1, 16, 40), "decoder_input_ids": torch.randint(0, 90, (1, 5))},
            ["logits"],
        )

    C["Whisper"] = whisper
    a = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "conv_dim": [16, 16],
        "conv_stride": [4, 2],
        "conv_kernel": [8, 4],
        "num_feat_extract_layers": 2,
        "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 2,
        "vocab_size": 32,
    }
    for n in ["Wav2Vec2", "Hubert", "WavLM", "UniSpeech", "SEW", "Data2VecAudio", "Wav2Vec2Conformer"]:
        kw = dict(a)
        if n == "SEW":
            kw.update(squeeze_factor=2)
        C[n] = vis(n + "Config", n + "ForCTC", (1, 400), key="input_values", **kw)
    C["AST"] = vis(
        "ASTConfig",
        "ASTForAudioClassification",
        (1, 32, 16),
        key="input_values",
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_length=32,
        num_mel_bins=16,
        patch_size=8,
        frequency_stride=8,
        time_stride=8,
    )

    def clip():
        cfg = T.CLIPConfig(
            text_config={
                "vocab_size": 99,
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "intermediate_size": 48,
                "max_position_embeddings": 32,
                "eos_token_id": 98,
            },
            vision_config=v,
            projection_dim=16,
        )
        return (
            T.CLIPModel(cfg).eval(),
            {
                "input_ids": torch.randint(0, 99, (2, 7)),
                "pixel_values": torch.randn(2, 3, 32, 32),
                "attention_mask": torch.ones(2, 7, dtype=torch.long),
            },
            ["logits_per_image"],
        )

    C["CLIP"] = clip

    def vilt():
        cfg = T.ViltConfig(**dict(v, vocab_size=99, max_position_embeddings=32))
        return (
            T.ViltModel(cfg).eval(),
            {"input_ids": torch.randint(0, 99, (1, 7)), "pixel_values": torch.randn(1, 3, 32, 32)},
            ["last_hidden_state"],
        )

    C["ViLT"] = vilt

    def perceiver():
        cfg = T.PerceiverConfig(
            num_latents=8,
            d_latents=32,
            d_model=16,
            num_blocks=1,
            num_self_attends_per_block=2,
            num_self_attention_heads=4,
            num_cross_attention_heads=4,
            vocab_size=99,
            max_position_embeddings=20,
        )
        return T.PerceiverForMaskedLM(cfg).eval(), {"inputs": torch.randint(0, 99, (1, 20))}, ["logits"]

    C["Perceiver"] = perceiver

    def detr():
        cfg = T.DetrConfig(
            d_model=32,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            num_queries=5,
            use_timm_backbone=False,
            use_pretrained_backbone=False,
            backbone=None,
            backbone_config=T.ResNetConfig(
                embedding_size=8, hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1], out_features=["stage4"]
            ),
        )
        return (
            T.DetrForObjectDetection(cfg).eval(),
            {"pixel_values": torch.randn(1, 3, 64, 64)},
            ["logits", "pred_boxes"],
        )

    C["DETR"] = detr

    def tst():
        cfg = T.PatchTSTConfig(
            num_input_channels=3,
            context_length=32,
            patch_length=8,
            stride=8,
            d_model=16,
            num_hidden_layers=2,
            num_attention_heads=4,
            ffn_dim=32,
            prediction_length=4,
        )
        return (
            T.PatchTSTForPrediction(cfg).eval(),
            {"past_values": torch.randn(2, 32, 3)},
            ["prediction_outputs"],
        )

    C["PatchTST"] = tst

    def tsm():
        cfg = T.PatchTSMixerConfig(
            num_input_channels=3,
            context_length=32,
            patch_length=8,
            patch_stride=8,
            d_model=16,
            num_layers=2,
            prediction_length=4,
        )
        return (
            T.PatchTSMixerForPrediction(cfg).eval(),
            {"past_values": torch.randn(2, 32, 3)},
            ["prediction_outputs"],
        )

    C["PatchTSMixer"] = tsm

    def dt():
        cfg = T.DecisionTransformerConfig(
            state_dim=5, act_dim=3, hidden_size=32, n_layer=2, n_head=4, max_ep_len=20
        )
        return (
            T.DecisionTransformerModel(cfg).eval(),
            {
                "states": torch.randn(1, 4, 5),
                "actions": torch.randn(1, 4, 3),
                "rewards": torch.randn(1, 4, 1),
                "returns_to_go": torch.randn(1, 4, 1),
                "timesteps": torch.arange(4)[None],
                "attention_mask": torch.ones(1, 4),
            },
            ["action_preds"],
        )

    C["DecisionTransformer"] = dt
    return C


def measured(name: str, build: Build) -> dict[str, object]:
    """One architecture: what was found and what it cost."""
    try:
        torch.manual_seed(0)
        module, example, outputs = build()
        module.eval()
        args = (example,) if isinstance(example, torch.Tensor) else example
        given = ((), args) if isinstance(args, dict) else (args, {})
        start = time.perf_counter()
        torch.export.export(module, *given, strict=False)
        exported = time.perf_counter() - start
        start = time.perf_counter()
        found = im.discover(module, example, outputs=outputs)
        taken = time.perf_counter() - start
    except Exception as error:
        return {"name": name, "error": f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"}
    proof = found.verification
    return {
        "name": name,
        "parameters": found.layout.numel,
        "log2_order": round(found.log2_order, 1),
        "coverage": round(found.coverage, 4),
        "change": proof.error,
        "failed": list(proof.failed),
        "export_s": round(exported, 2),
        "discover_s": round(taken, 2),
    }


def survey(family: str, wanted: list[str]) -> Iterator[dict[str, object]]:
    """All architectures of a family, or those that are named."""
    for name, build in globals()[family]().items():
        if not wanted or name in wanted:
            yield measured(name, build)


def main() -> None:
    """Print a line of JSON an architecture, then a summary."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows = []
    for row in survey(sys.argv[1], sys.argv[2:]):
        rows.append(row)
        print(json.dumps(row), flush=True)
    done = [row for row in rows if "error" not in row]
    if done:
        ratio = statistics.median(row["discover_s"] / max(row["export_s"], 0.01) for row in done)
        covered = sum(row["coverage"] >= 0.95 for row in done)
        failed = sum(bool(row["failed"]) for row in done)
        print(
            f"{len(done)} of {len(rows)} traced; coverage of 95 % and more on {covered}; pinned by the "
            f"proof: {failed}; discovery with proof over export, median: {ratio:.2f}"
        )


if __name__ == "__main__":
    main()
