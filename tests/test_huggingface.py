"""Hugging Face folders: built from a config alone, aligned into a third, and refused where unsafe."""

import importlib
import json
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from isthmus import Weights, discover
from isthmus.cli.main import app
from isthmus.errors import CheckpointError, LayoutError, MissingDependencyError, SettingError, SymmetryError
from isthmus.experiments import alignfolders
from isthmus.experiments.alignfolders import align_folders
from isthmus.io import huggingface, modelfolder
from isthmus.io.huggingface import build, differences, load, read_architecture, write_weights
from isthmus.io.modelinputs import example_inputs, output_names, telling_outputs

transformers = pytest.importorskip("transformers")
command = importlib.import_module("isthmus.cli.symmetry")  # the module, which its function hides

WORDS = {"vocab_size": 60, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SMALL = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 4}
TEXT = WORDS | SMALL | {"max_position_embeddings": 32}
IMAGE = SMALL | {"image_size": 16, "patch_size": 8}
GROUPED = TEXT | {"num_key_value_heads": 2}
TOWERS = {"decoder_start_token_id": 1, "d_model": 16}
CONFIGS: dict[str, tuple[str, dict]] = {
    "gpt2": (
        "GPT2LMHeadModel",
        WORDS | {"n_embd": 16, "n_layer": 1, "n_head": 4, "n_positions": 32},
    ),
    "llama": ("LlamaForCausalLM", GROUPED),
    "qwen2": ("Qwen2ForCausalLM", GROUPED),
    "mixtral": ("MixtralForCausalLM", GROUPED | {"num_local_experts": 4}),
    "bert": ("BertForMaskedLM", TEXT),
    "vit": ("ViTForImageClassification", IMAGE),
    "t5": (
        "T5ForConditionalGeneration",
        WORDS | TOWERS | {"d_ff": 20, "d_kv": 4, "num_layers": 1, "num_heads": 4},
    ),
    "resnet": ("ResNetForImageClassification", {"embedding_size": 8, "hidden_sizes": [8], "depths": [1]}),
    "whisper": (
        "WhisperForConditionalGeneration",
        WORDS
        | TOWERS
        | {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "num_mel_bins": 8}
        | {"decoder_attention_heads": 2, "encoder_ffn_dim": 20, "decoder_ffn_dim": 20}
        | {"max_source_positions": 20, "max_target_positions": 16},
    ),
    "wav2vec2": (
        "Wav2Vec2ForCTC",
        SMALL
        | {"vocab_size": 30, "conv_dim": [8, 8], "conv_stride": [5, 2], "conv_kernel": [10, 3]}
        | {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "num_feat_extract_layers": 2},
    ),
    "clip": (
        "CLIPModel",
        {
            "text_config": TEXT | {"max_position_embeddings": 16, "model_type": "clip_text_model"},
            "vision_config": IMAGE | {"model_type": "clip_vision_model"},
            "projection_dim": 12,
        },
    ),
}
MATCHED = ("gpt2", "llama", "mixtral", "bert", "vit", "t5")


def config_folder(folder: Path, kind: str, **changes: object) -> Path:
    """A folder with a config.json and nothing else."""
    name, settings = CONFIGS[kind]
    folder.mkdir(parents=True)
    body = {"model_type": kind, "architectures": [name]} | settings | changes
    (folder / "config.json").write_text(json.dumps(body))
    return folder


def model_folder(folder: Path, kind: str, seed: int = 1, dtype: torch.dtype = torch.float32) -> Path:
    """A folder with a config and random weights, constants among them drawn too."""
    config_folder(folder, kind)
    module = build(read_architecture(folder), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return stored(module.to(dtype), folder)


def stored(module: torch.nn.Module, folder: Path) -> Path:
    """The module's weights in a folder whose config stays as it is."""
    folder.mkdir(exist_ok=True)
    before = (folder / "config.json").read_bytes()
    write_weights(module, folder, 10**9)
    (folder / "config.json").write_bytes(before)
    return folder


def planted(place: Path, kind: str, noise: float = 1e-3) -> tuple[Path, Path, float]:
    """Folders A and B, where B is A with its units reordered and noise added; and how much noise."""
    a = model_folder(place / "a", kind)
    module = load(read_architecture(a)).module
    inputs = example_inputs(module)
    symmetry = discover(module, inputs, telling_outputs(output_names(module, inputs)) or None)
    moved = symmetry.random(torch.Generator().manual_seed(3)).apply(Weights.from_module(module))
    shake = noise * torch.randn(moved.vector.shape, generator=torch.Generator().manual_seed(4))
    noisy = Weights(moved.layout, moved.vector + shake, moved.buffers)
    shutil.copytree(a, place / "b")
    b = stored(noisy.to_module(module), place / "b")
    return a, b, noisy.distance(moved)


def auto(kind: str):
    """The Auto class that fits the kind's architecture."""
    heads = {
        "ForCausalLM": "AutoModelForCausalLM",
        "LMHeadModel": "AutoModelForCausalLM",
        "ForMaskedLM": "AutoModelForMaskedLM",
        "ForImageClassification": "AutoModelForImageClassification",
        "ForConditionalGeneration": "AutoModelForSeq2SeqLM",
    }
    name = CONFIGS[kind][0]
    return getattr(transformers, next(head for end, head in heads.items() if name.endswith(end)))


def run(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def refused(*arguments: object) -> str:
    """The message of a command that must end with exit code 2 and no traceback."""
    done = run(*arguments)
    text = " ".join(done.output.split())
    assert done.exit_code == 2, f"{done.exit_code}: {text} {done.exception!r}"
    assert "Traceback" not in text
    return text


def names(place: Path) -> set[str]:
    return {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, float]:
    """Two small GPT-2 folders; the second one is the first, reordered, with noise."""
    return planted(tmp_path_factory.mktemp("pair"), "gpt2")


# -- configs alone --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("gpt2", {"input_ids": ((1, 8), torch.int64)}),
        ("t5", {"input_ids": ((1, 8), torch.int64), "decoder_input_ids": ((1, 8), torch.int64)}),
        ("vit", {"pixel_values": ((1, 3, 16, 16), torch.float32)}),
        ("resnet", {"pixel_values": ((1, 3, 64, 64), torch.float32)}),
        (
            "whisper",
            {"input_features": ((1, 8, 40), torch.float32), "decoder_input_ids": ((1, 8), torch.int64)},
        ),
        ("wav2vec2", {"input_values": ((1, 93), torch.float32)}),
        ("clip", {"input_ids": ((1, 8), torch.int64), "pixel_values": ((1, 3, 16, 16), torch.float32)}),
    ],
)
def test_inputs_come_from_the_config(tmp_path: Path, kind: str, expected: dict) -> None:
    module = build(read_architecture(config_folder(tmp_path / kind, kind)))
    inputs = example_inputs(module)
    assert {name: (tuple(t.shape), t.dtype) for name, t in inputs.items()} == expected
    assert output_names(module, inputs), "it runs on them"
    for name, tensor in inputs.items():
        if name.endswith("input_ids"):
            assert int(tensor.min()) > 2, "no special token is drawn"
            assert int(tensor.max()) < 60


def test_a_shape_of_ones_own_keeps_the_kind_of_number(tmp_path: Path) -> None:
    words = build(read_architecture(config_folder(tmp_path / "gpt2", "gpt2")))
    assert {n: (t.shape, t.dtype) for n, t in example_inputs(words, (2, 5)).items()} == {
        "input_ids": (torch.Size([2, 5]), torch.int64)
    }
    with pytest.raises(SettingError, match="does not run on input_ids \\[1, 50\\]"):
        output_names(words, example_inputs(words, (1, 50)))


def test_outputs_that_users_rely_on() -> None:
    assert telling_outputs(["logits", "hidden_states"]) == ["logits"]
    assert telling_outputs(["logits", "router_logits"]) == ["logits"]
    assert telling_outputs(["start_logits", "end_logits"]) == ["start_logits", "end_logits"]
    assert telling_outputs(["logits_per_image", "text_embeds", "text_model_output"]) == [
        "logits_per_image",
        "text_embeds",
    ]
    assert telling_outputs(["last_hidden_state"]) == []


def test_building_leaves_no_trace(tmp_path: Path) -> None:
    architecture = read_architecture(config_folder(tmp_path / "bert", "bert"))
    state = torch.get_rng_state()
    one, two, other = (Weights.from_module(build(architecture, seed)) for seed in (1, 1, 2))
    assert one.equal(two)
    assert not one.equal(other)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.is_meta for p in build(architecture, device="meta").parameters())


def test_symmetry_of_a_config(tmp_path: Path) -> None:
    folder, saved = config_folder(tmp_path / "gpt2", "gpt2"), tmp_path / "symmetry.json"
    done = run("symmetry", "--model", folder, "--json", "--save", saved)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert names(folder) == {"config.json"}, "no weights are needed, and none are made"
    assert found["outputs"] == ["logits"]
    assert found["inputs"] == {"input_ids": [1, 8]}
    assert found["verification"]["passed"]
    assert found["log10_order"] == pytest.approx(found["log2_order"] * 0.30103, rel=1e-4)
    assert {axis["units"] for axis in found["axes"]} == {16, 64, 4}
    assert any("looked up by data" in line["reason"] for line in found["pinned by reason"])
    assert json.loads(saved.read_text())["axes"]
    assert "exists already; give another --save" in refused("symmetry", "--model", folder, "--save", saved)
    assert run("symmetry", "--model", folder, "--save", saved, "--force", "--no-verify", "-q").exit_code == 0


def test_symmetry_is_told_in_words(tmp_path: Path) -> None:
    folder = config_folder(tmp_path / "bert", "bert")
    short = " ".join(run("symmetry", "--model", folder).output.split())
    assert "elements (log₁₀ of the order:" in short
    assert "Proved in float64" in short
    assert "Controls" not in short
    full = run("symmetry", "--model", folder, "--verify").output
    assert "Controls: one axis moved" in full
    chosen = run("symmetry", "--model", folder, "--json", "--freeze", "bert.embeddings.LayerNorm.weight:0")
    found = json.loads(chosen.stdout)
    assert found["frozen"] == ["bert.embeddings.LayerNorm.weight[0]"]
    assert found["pinned"]["bert.embeddings.LayerNorm.weight[0]"] == "frozen by the caller"
    assert "no parameter 'bert.nothing'" in refused("symmetry", "--model", folder, "--freeze", "bert.nothing")
    text = refused("symmetry", "--model", folder, "--freeze", "bert.embeddings.LayerNorm.weight:1")
    assert "from 0 to 0" in text


def test_large_models_are_built_without_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = config_folder(tmp_path / "gpt2", "gpt2")
    monkeypatch.setattr(command, "_LARGE", 1000)
    for verify, numbers in ((None, False), (False, False), (True, True)):
        subject = command._of_folder(folder, None, None, verify, 0)
        assert all(p.is_meta is not numbers for p in subject.module.parameters())
        assert subject.verify is numbers
        assert subject.outputs == ["logits"], "told without running it"
        assert bool(subject.notes) is (verify is None), "what is left out by itself is said"
    assert not next(command._of_folder(folder, None, None, True, 0).module.parameters()).is_meta


def test_outputs_may_be_chosen(tmp_path: Path) -> None:
    folder = config_folder(tmp_path / "bert", "bert", architectures=["BertModel"])
    first = json.loads(run("symmetry", "--model", folder, "--json").stdout)
    assert first["outputs"] == ["last_hidden_state"]
    both = json.loads(
        run(
            "symmetry", "--model", folder, "--json", "--outputs", "last_hidden_state,pooler_output"
        ).stdout
    )  # fmt: skip
    assert both["log2_order"] < first["log2_order"], "the pooler's units are told apart by its output"
    assert "has no output 'logits'" in refused("symmetry", "--model", folder, "--outputs", "logits")


def test_models_of_tokens_from_a_file(tmp_path: Path) -> None:
    """A shape says nothing of the kind of number: it comes from the model."""
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def plain(): return nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 9))\n"
        "def hub():\n"
        "    from transformers import GPT2Config, GPT2LMHeadModel\n"
        "    return GPT2LMHeadModel(GPT2Config(vocab_size=60, n_embd=16, n_layer=1, n_head=4))\n"
    )
    for name, sizes in (("plain", {4, 5}), ("hub", {16, 64, 4})):
        done = run("symmetry", "--model", f"{tmp_path}/mine.py:{name}", "--input", "2,6", "--json")
        assert done.exit_code == 0, done.output
        found = json.loads(done.stdout)
        assert {axis["units"] for axis in found["axes"]} == sizes
        assert found["verification"]["passed"]
    assert "needs --input" in refused("symmetry", "--model", f"{tmp_path}/mine.py:plain")


def test_an_unnamed_architecture_is_the_bare_model(tmp_path: Path) -> None:
    assert read_architecture(config_folder(tmp_path / "a", "bert", architectures=None)).name == "BertModel"
    unknown = read_architecture(config_folder(tmp_path / "b", "bert", architectures=["BertForWeather"]))
    assert unknown.name == "BertModel"
    assert "has no BertForWeather" in unknown.note


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"auto_map": {"AutoModel": "evil.Model"}}, "code of its own (auto_map)"),
        ({"extra": [{"auto_map": {}}]}, "code of its own (auto_map)"),
        ({"model_type": "weather"}, "model_type 'weather'"),
        ({"model_type": None}, "names no model_type"),
        ({"architectures": ["BertModel"]}, "contradicts itself"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"transformers_weights": "../other.bin"}, "transformers_weights"),
        ({"n_embd": 15}, "can be built"),
        ({"n_embd": "wide"}, "cannot make sense of"),
    ],
)
def test_configs_that_are_refused(tmp_path: Path, changes: dict, message: str) -> None:
    folder = config_folder(tmp_path / "model", "gpt2", **changes)
    assert message in refused("symmetry", "--model", folder)
    assert message in refused("align", folder, folder, "--out", tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_folders_that_are_no_models(tmp_path: Path) -> None:
    assert "config.json does not exist" in refused("symmetry", "--model", tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert "is damaged" in refused("symmetry", "--model", tmp_path)
    (tmp_path / "config.json").write_text("[]")
    assert "expected an object" in refused("symmetry", "--model", tmp_path)
    assert "give the folder" in refused("symmetry", "--model", tmp_path / "config.json")
    assert "does not exist" in refused("symmetry", "--model", tmp_path / "nowhere")


def test_the_library_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = config_folder(tmp_path / "model", "gpt2")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'isthmus\[hf\]'"):
        read_architecture(folder)
    assert "pip install 'isthmus[hf]'" in refused("symmetry", "--model", folder)
    monkeypatch.setitem(sys.modules, "transformers", transformers)
    monkeypatch.setattr(transformers, "__version__", "4.57.1")
    assert "5.17 or newer, and 4.57.1 is installed" in refused("symmetry", "--model", folder)


def test_the_library_is_left_as_it_was(tmp_path: Path) -> None:
    log = transformers.utils.logging
    log.set_verbosity(log.INFO)
    try:
        read_architecture(config_folder(tmp_path / "model", "gpt2"))
        assert log.get_verbosity() == log.INFO
        assert log.is_progress_bar_enabled()
    finally:
        log.set_verbosity(log.WARNING)


# -- alignment ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MATCHED)
def test_a_planted_order_is_found_again(tmp_path: Path, kind: str) -> None:
    a, b, noise = planted(tmp_path, kind)
    made = align_folders(a, b, tmp_path / "c", restarts=1)
    assert made.matching.distance == pytest.approx(noise, rel=1e-6), "what is left is the noise"
    assert made.matching.distance_before > 10 * noise
    assert made.error < 1e-6
    ours, theirs = (auto(kind).from_pretrained(f, attn_implementation="eager") for f in (tmp_path / "c", b))
    inputs = example_inputs(theirs, seed=9)
    with torch.no_grad():
        torch.testing.assert_close(ours(**inputs).logits, theirs(**inputs).logits, rtol=1e-4, atol=1e-5)
    assert not torch.equal(*(next(m.parameters()) for m in (ours, theirs))), "the weights are others"
    bare = transformers.AutoModel.from_pretrained(tmp_path / "c")
    assert sum(p.numel() for p in bare.parameters()) > 0


def test_everything_but_weights_comes_along(pair: tuple[Path, Path, float], tmp_path: Path) -> None:
    a, b, _ = pair
    mine = shutil.copytree(b, tmp_path / "b")
    for name, text in (("tokenizer.json", "{}"), ("README.md", "# B"), ("more/vocab.txt", "a b")):
        (mine / name).parent.mkdir(exist_ok=True)
        (mine / name).write_text(text)
    (mine / ".git").mkdir()
    (mine / ".git" / "HEAD").write_text("x")
    (mine / "training_args.bin").write_bytes(b"x")
    (mine / "isthmus.json").write_text("old")
    (mine / "linked.txt").symlink_to(mine / "README.md")
    done = run("align", a, mine, "--out", tmp_path / "c", "--restarts", 1)
    assert done.exit_code == 0, done.output
    text = " ".join(done.output.split())
    assert "not copied, as they belong to B's own order of units: training_args.bin" in text
    assert "differ from B's by" in text
    expected = names(mine) - {".git/HEAD", "training_args.bin"}
    assert names(tmp_path / "c") == expected
    for name in expected - {"model.safetensors", "isthmus.json"}:
        assert (tmp_path / "c" / name).read_bytes() == (mine / name).read_bytes(), name
    assert not (tmp_path / "c" / "linked.txt").is_symlink()
    record = json.loads((tmp_path / "c" / "isthmus.json").read_text())
    assert record["aligned from"] == load(read_architecture(mine)).sha256
    assert record["matching"]["method"] == "weight"
    modes = {(tmp_path / "c" / name).stat().st_mode for name in expected}
    assert len(modes) == 1, "all may be read by whom the folder's maker allows"


def test_shards_and_torch_files(pair: tuple[Path, Path, float], tmp_path: Path) -> None:
    a, b, noise = pair
    one, two = shutil.copytree(a, tmp_path / "a"), shutil.copytree(b, tmp_path / "b")
    torch.save(load_file(one / "model.safetensors"), one / "pytorch_model.bin")
    (one / "model.safetensors").unlink()
    whole = (two / "model.safetensors").stat().st_size
    (two / "model.safetensors").unlink()
    write_weights(load(read_architecture(b)).module, two, whole // 3)
    assert len(list(two.glob("*.safetensors"))) > 2
    made = align_folders(one, two, tmp_path / "c", restarts=1)
    assert made.matching.distance == pytest.approx(noise, rel=1e-6)
    assert len(list((tmp_path / "c").glob("*.safetensors"))) in (3, 4)
    assert (tmp_path / "c" / "model.safetensors.index.json").exists()


def test_dtypes_are_bs_own(pair: tuple[Path, Path, float], tmp_path: Path) -> None:
    a, b, _ = pair
    narrow = shutil.copytree(b, tmp_path / "narrow")
    stored(load(read_architecture(b)).module.to(torch.bfloat16), narrow)
    made = align_folders(a, narrow, tmp_path / "c", restarts=1)
    assert made.matching.distance < made.matching.distance_before / 10
    assert {t.dtype for t in load_file(tmp_path / "c" / "model.safetensors").values()} == {torch.bfloat16}
    align_folders(narrow, a, tmp_path / "d", restarts=1)
    assert {t.dtype for t in load_file(tmp_path / "d" / "model.safetensors").values()} == {torch.float32}


def test_names_without_the_models_prefix(pair: tuple[Path, Path, float], tmp_path: Path) -> None:
    """Checkpoints of a bare GPT-2 name its tensors without `transformer.`, and hold causal masks."""
    a, b, noise = pair
    bare = shutil.copytree(b, tmp_path / "b")
    state = {n.removeprefix("transformer."): t for n, t in load_file(b / "model.safetensors").items()}
    save_file(state | {"weather": torch.ones(2)}, bare / "model.safetensors")
    made = align_folders(a, bare, tmp_path / "c", restarts=1)
    assert made.matching.distance == pytest.approx(noise, rel=1e-6)
    assert "left out 1 tensors that GPT2LMHeadModel does not have (weather)" in made.notes["B"]


def test_ties_stay_ties(pair: tuple[Path, Path, float], tmp_path: Path) -> None:
    a, b, _ = pair
    align_folders(a, b, tmp_path / "c", restarts=1)
    assert load_file(tmp_path / "c" / "model.safetensors").keys() == load_file(b / "model.safetensors").keys()
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "c")
    assert model.lm_head.weight is model.transformer.wte.weight


def test_what_does_not_belong_together(pair: tuple[Path, Path, float], tmp_path: Path) -> None:
    a, b, _ = pair
    file, out = b / "model.safetensors", tmp_path / "c"
    assert f"{b} is a Hugging Face folder and {file} is a file" in refused("align", b, file, "--out", out)
    assert "name it with --task" in refused("align", file, file, "--out", out)
    assert "leave --task out" in refused("align", a, b, "--task", "digits-mlp", "--out", out)
    assert "does not exist" in refused("align", a, tmp_path / "nowhere", "--out", out)
    (tmp_path / "empty").mkdir()
    assert "a folder without config.json" in refused("align", a, tmp_path / "empty", "--out", out)
    config_folder(tmp_path / "bare", "gpt2")
    assert "holds no model" in refused("align", a, tmp_path / "bare", "--out", out)
    wide = config_folder(tmp_path / "wide", "gpt2", n_embd=24)
    assert "differ in n_embd (16, 24)" in refused("align", a, wide, "--out", out)
    bert = config_folder(tmp_path / "bert", "bert")
    assert "the class (GPT2LMHeadModel, BertForMaskedLM)" in refused("align", a, bert, "--out", out)
    assert "is, holds or lies in" in refused("align", a, b, "--out", b, "--force")
    assert "is, holds or lies in" in refused("align", a, b, "--out", b / "c")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    assert "exists already" in refused("align", a, b, "--out", tmp_path / "mine")
    assert "holds no model (thesis.tex)" in refused("align", a, b, "--out", tmp_path / "mine", "--force")
    assert not out.exists()


def test_bookkeeping_does_not_tell_configs_apart(tmp_path: Path) -> None:
    one = read_architecture(config_folder(tmp_path / "a", "llama"))
    two = read_architecture(
        config_folder(tmp_path / "b", "llama", attention_dropout=0.5, dtype="bfloat16", eos_token_id=7)
    )
    other = read_architecture(config_folder(tmp_path / "c", "llama", rms_norm_eps=0.1, rope_theta=7.0))
    assert differences(one, two) == []
    told = ", ".join(differences(one, other))
    assert "rms_norm_eps (1e-06, 0.1)" in told
    assert "rope_theta" in told


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_weights_that_are_refused(pair: tuple[Path, Path, float], tmp_path: Path) -> None:
    a, b, _ = pair
    bad = shutil.copytree(b, tmp_path / "b")
    state = load_file(b / "model.safetensors")
    architecture = read_architecture(bad)

    def given(tensors: dict) -> None:
        save_file(tensors, bad / "model.safetensors")

    given({name: t for name, t in state.items() if "c_fc.weight" not in name})
    with pytest.raises(LayoutError, match=r"missing: transformer.h.0.mlp.c_fc.weight"):
        load(architecture)
    given(state | {"transformer.wpe.weight": torch.ones(3, 16)})
    with pytest.raises(LayoutError, match=r"wpe.weight \(expected \[32, 16\], got \[3, 16\]\)"):
        load(architecture)
    given(state | {"transformer.wpe.weight": torch.full((32, 16), float("nan"))})
    assert "NaN" in refused("align", a, bad, "--out", tmp_path / "c")
    given({name: t.to(torch.float8_e4m3fn) for name, t in state.items()})
    with pytest.raises(CheckpointError, match="float8_e4m3fn: narrower than supported"):
        load(architecture)
    (bad / "model.safetensors").unlink()
    (bad / "pytorch_model.bin").write_bytes(pickle.dumps({"state": Bomb(tmp_path / "executed")}))
    assert "nothing in it was executed" in refused("align", a, bad, "--out", tmp_path / "c")
    (bad / "adapter_config.json").write_text("{}")
    assert "adapter (LoRA)" in refused("align", a, bad, "--out", tmp_path / "c")
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "c").exists()


def test_mixed_dtypes_are_told(pair: tuple[Path, Path, float], tmp_path: Path) -> None:
    mixed = shutil.copytree(pair[1], tmp_path / "b")
    state = load_file(mixed / "model.safetensors")
    state["transformer.wpe.weight"] = state["transformer.wpe.weight"].half()
    save_file(state, mixed / "model.safetensors")
    found = load(read_architecture(mixed))
    assert {p.dtype for p in found.module.parameters()} == {torch.float32}
    assert "several dtypes (float16, float32)" in found.notes[0]


def test_a_wrong_result_is_not_kept(
    pair: tuple[Path, Path, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check after writing can fire, and then neither C nor anything beside it is there."""
    a, b, _ = pair

    def damaged(*arguments: object):
        module = huggingface.reload(*arguments)
        with torch.no_grad():
            next(module.parameters())[3] += 1
        return module

    monkeypatch.setattr(alignfolders, "reload", damaged)
    with pytest.raises(SymmetryError, match="is not what it should be: its weights"):
        align_folders(a, b, tmp_path / "c", restarts=1)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    old = shutil.copytree(b, tmp_path / "c")
    before = names(old)
    monkeypatch.setattr(alignfolders, "reload", damaged)
    with pytest.raises(SymmetryError):
        align_folders(a, b, old, restarts=1)
    assert names(tmp_path) == {f"c/{name}" for name in before}, "what was there stays as it was"


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    with modelfolder.folder_in_place(tmp_path / "new" / "c") as folder:
        (folder / "a.txt").write_text("one")
    with modelfolder.folder_in_place(tmp_path / "new" / "c") as folder:
        (folder / "b.txt").write_text("two")
        assert names(tmp_path / "new" / "c") == {"a.txt"}
    assert names(tmp_path) == {"new/c/b.txt"}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["c"]
