"""Checkpoints: what is written comes back to the bit; what cannot be trusted is refused by a sentence."""

from __future__ import annotations

import json
import os
import pickle
import random
import re
import stat
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from torch.testing import assert_close

from isthmus.atomic import atomic_path, write_bytes_atomic, write_text_atomic
from isthmus.errors import CheckpointError, IsthmusError, LayoutError, SettingError
from isthmus.io.checkpoints import load_weights, read_checkpoint, save_weights
from isthmus.network import Network
from isthmus.weights import Weights

REAL = os.environ.get("ISTHMUS_DATA")
FLOATS = [
    torch.float64,
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.complex64,
]
INTEGERS = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
SUFFIXES = [".safetensors", ".pt", ".pth"]


class Tied(nn.Module):
    """Everything a state dict can hold: a tie, buffers, a scalar, an empty tensor, an integer parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.last = nn.Linear(4, 3)
        self.again = nn.Linear(3, 4)
        self.again.weight = self.first.weight
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.nothing = nn.Parameter(torch.empty(0, 3))
        self.places = nn.Parameter(torch.arange(3), requires_grad=False)
        self.register_buffer("turned", torch.randn(3, 5).t())
        self.register_buffer("mask", torch.tensor([True, False]))


@pytest.fixture
def module():
    torch.manual_seed(0)
    return Tied()


@pytest.fixture
def state():
    generator = torch.Generator().manual_seed(0)
    return {
        "a.weight": torch.randn(3, 2, generator=generator),
        "a.bias": torch.randn(3, generator=generator),
        "n.running_mean": torch.zeros(3),
        "n.num_batches_tracked": torch.tensor(7),
    }


def refusal(path, like=None, error=CheckpointError):
    with pytest.raises(error) as caught:
        load_weights(path, like)
    assert type(caught.value) is error
    return str(caught.value)


# -- round trips --------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trip_of_a_module_with_everything(tmp_path, module, suffix):
    weights = Weights.from_module(module)
    path = save_weights(weights, tmp_path / f"new/folder/w{suffix}")
    assert load_weights(path).equal(weights)
    assert load_weights(path, like=module).equal(weights)
    assert load_weights(path, like=Network(module)).equal(weights)
    assert load_weights(path, like=weights).equal(weights)
    assert read_checkpoint(path).unwrapped == ()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_round_trip_of_every_dtype(tmp_path, suffix, dtype):
    values = torch.linspace(-2, 2, 12).reshape(3, 4).t()
    weights = Weights.from_state_dict(
        {"w": values.to(dtype), "scalar": torch.tensor(0.5).to(dtype), "empty": torch.empty(0).to(dtype)}
        | {str(kind): torch.tensor([0, 1, 1]).to(kind) for kind in INTEGERS}
        | {"buffer": values.to(dtype)},
        buffers=["buffer", *map(str, INTEGERS)],
    )
    path = save_weights(weights, tmp_path / f"w{suffix}")
    back = load_weights(path)
    assert back.equal(weights)
    assert back.state_dict()["w"].dtype == dtype
    assert back.buffers["buffer"].dtype == dtype


def test_complex128_goes_into_pt_and_is_refused_by_safetensors(tmp_path):
    weights = Weights.from_state_dict({"w": torch.tensor([1 + 2j], dtype=torch.complex128)})
    assert load_weights(save_weights(weights, tmp_path / "w.pt")).equal(weights)
    with pytest.raises(CheckpointError, match=r"safetensors has no complex128: .*\.pt"):
        save_weights(weights, tmp_path / "w.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["w.pt"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_plain_libraries_load_what_is_written(tmp_path, module, suffix):
    path = save_weights(Weights.from_module(module), tmp_path / f"w{suffix}")
    found = load_file(path) if suffix == ".safetensors" else torch.load(path, weights_only=True)
    fresh = Tied()
    fresh.load_state_dict(found, strict=True)
    for name, tensor in module.state_dict().items():
        assert_close(fresh.state_dict()[name], tensor, rtol=0, atol=0)
    assert found["first.weight"].data_ptr() != found["again.weight"].data_ptr()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_equal_weights_give_equal_bytes(tmp_path, module, suffix):
    weights = Weights.from_module(module)
    texts = {"seed": "1", "task": "ü", "zeta": '"\x7f'}
    contents = {
        save_weights(weights, tmp_path / f"{name}{suffix}", texts).read_bytes() for name in ("a", "b" * 40)
    }
    contents.add(save_weights(weights, tmp_path / f"c{suffix}", dict(reversed(texts.items()))).read_bytes())
    assert len(contents) == 1
    assert read_checkpoint(tmp_path / f"a{suffix}").metadata == texts


def test_the_names_of_the_metadata_are_guarded(tmp_path, state):
    with pytest.raises(SettingError, match="'isthmus' is reserved"):
        save_weights(Weights.from_state_dict(state), tmp_path / "w", {"isthmus": "x"})


def test_a_description_that_does_not_fit_is_not_used(tmp_path, state):
    described = json.dumps({"names": ["other"], "buffers": [], "aliases": []})
    save_file(state, tmp_path / "w.safetensors", {"isthmus": described})
    checkpoint = read_checkpoint(tmp_path / "w.safetensors")
    assert "was not used" in checkpoint.unwrapped[0]
    assert set(checkpoint.weights) == {"a.weight", "a.bias"}


# -- writing whole or not at all ----------------------------------------------------------------


def test_a_failed_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    write_text_atomic(tmp_path / "a", "old")

    def interrupted():
        with atomic_path(tmp_path / "a") as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a", "old")]
    write_bytes_atomic(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_text() == "new"


def test_new_files_have_the_permissions_of_the_umask(tmp_path):
    write_bytes_atomic(tmp_path / "a", b"")
    (tmp_path / "b").touch()
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "b").stat().st_mode)


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real/a")
    write_bytes_atomic(tmp_path / "link", b"x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real/a").read_bytes() == b"x"


def test_folders_and_devices_are_not_overwritten(tmp_path, state):
    with pytest.raises(SettingError, match="is a folder"):
        save_weights(Weights.from_state_dict(state), tmp_path)
    with pytest.raises(SettingError, match="is a device"):
        write_bytes_atomic("/dev/null", b"x")
    (tmp_path / "file").touch()
    with pytest.raises(SettingError, match="cannot write"):
        write_bytes_atomic(tmp_path / "file/below", b"x")


# -- wrappers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrap", "told"),
    [
        (lambda s: {"state_dict": s, "epoch": 3}, "took the state dict under 'state_dict', left epoch"),
        (
            lambda s: {"model_state_dict": s, "optimizer": {"state": {0: {"m": torch.ones(2)}}}},
            "left optimizer",
        ),
        (lambda s: {"checkpoint": {"model": s}}, "under 'model'"),
        (lambda s: {"net": {f"module._orig_mod.{n}": t for n, t in s.items()}}, "prefix 'module._orig_mod.'"),
        (lambda s: {f"model.{n}": t for n, t in s.items()}, "prefix 'model.'"),
        (lambda s: {"ema": s, "state_dict": s}, "took the state dict under 'state_dict', left ema"),
        (lambda s: s | {"epoch": 3, "args": {"rate": 0.1}}, "no tensor: epoch (int), args (dict)"),
        (lambda s: {"epoch": torch.tensor(3), "state_dict": s}, "left epoch"),
        (
            lambda s: {"n_averaged": torch.tensor(4)} | {f"module.{n}": t for n, t in s.items()},
            "n_averaged, the counter of an averaged model",
        ),
    ],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_wrappers_are_taken_off_and_told(tmp_path, state, wrap, told, legacy):
    torch.save(wrap(OrderedDict(state)), tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    reference = Weights.from_state_dict(state)
    for like in (None, reference):
        checkpoint = read_checkpoint(tmp_path / "w.pth", like)
        assert checkpoint.weights.equal(reference)
        assert told in "; ".join(checkpoint.unwrapped)
    assert ("legacy" in checkpoint.format) == legacy


def test_a_prefix_that_the_model_has_stays(tmp_path):
    module = nn.Sequential(OrderedDict(model=nn.Linear(2, 2)))
    torch.save({"module." + n: t for n, t in module.state_dict().items()}, tmp_path / "w.pt")
    checkpoint = read_checkpoint(tmp_path / "w.pt", module)
    assert set(checkpoint.weights) == {"model.weight", "model.bias"}
    assert checkpoint.unwrapped == ("took the prefix 'module.' off every name",)


def test_several_state_dicts_are_not_guessed_between(tmp_path, state):
    torch.save({"generator": state, "discriminator": state}, tmp_path / "w.pt")
    assert "several state dicts (generator, discriminator)" in refusal(tmp_path / "w.pt")


def test_conversions_are_told_and_complex_numbers_do_not_become_real(tmp_path):
    like = nn.Linear(1, 1, bias=False)
    torch.save({"weight": torch.ones(1, 1, dtype=torch.float64)}, tmp_path / "w.pt")
    told = read_checkpoint(tmp_path / "w.pt", like).unwrapped
    assert told == ("converted 1 tensors from float64 to float32 (weight first)",)
    torch.save({"weight": torch.ones(1, 1, dtype=torch.complex64)}, tmp_path / "w.pt")
    message = refusal(tmp_path / "w.pt", like, LayoutError)
    assert "weight is complex64 in the checkpoint and float32 in the model" in message


def test_a_tie_that_the_checkpoint_breaks_is_refused(tmp_path, module):
    state = module.state_dict()
    state["again.weight"] = state["again.weight"] + 1
    torch.save(state, tmp_path / "w.pt")
    assert "ties again.weight to first.weight" in refusal(tmp_path / "w.pt", module, LayoutError)


def test_old_checkpoints_without_counters_fit(tmp_path):
    module = nn.BatchNorm1d(2)
    state = {n: t for n, t in module.state_dict().items() if n != "num_batches_tracked"}
    torch.save(state, tmp_path / "w.pt")
    assert load_weights(tmp_path / "w.pt", module).equal(Weights.from_module(module))


# -- Hugging Face folders -----------------------------------------------------------------------


def shards(folder, state, binary=False, weight_map=None):
    """Write a state dict as two shards with an index."""
    suffix = ".bin" if binary else ".safetensors"
    stem = "pytorch_model" if binary else "model"
    names = [f"{stem}-0000{i}-of-00002{suffix}" for i in (1, 2)]
    parts: list[dict] = [{}, {}]
    for number, (name, tensor) in enumerate(state.items()):
        parts[number % 2][name] = tensor
    for file, part in zip(names, parts, strict=True):
        torch.save(part, folder / file) if binary else save_file(part, folder / file)
    places = {name: file for file, part in zip(names, parts, strict=True) for name in part}
    index = folder / f"{stem}{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places if weight_map is None else weight_map}))
    return index


@pytest.mark.parametrize("binary", [False, True])
def test_folders_with_one_file_or_shards(tmp_path, state, binary):
    reference = Weights.from_state_dict(state)
    (tmp_path / "whole").mkdir()
    whole = tmp_path / "whole" / ("pytorch_model.bin" if binary else "model.safetensors")
    torch.save(state, whole) if binary else save_file(state, whole)
    assert load_weights(tmp_path / "whole", reference).equal(reference)
    assert read_checkpoint(tmp_path / "whole").sha256 == read_checkpoint(whole).sha256
    (tmp_path / "parts").mkdir()
    index = shards(tmp_path / "parts", state, binary)
    found = read_checkpoint(tmp_path / "parts", reference)
    assert found.weights.equal(reference)
    assert found.format.startswith("folder of 2 shards")
    assert read_checkpoint(index).sha256 == found.sha256


@pytest.mark.parametrize(
    ("weight_map", "told"),
    [
        ({"a.weight": "../w.safetensors"}, "no plain file name"),
        ({"a.weight": "/etc/passwd"}, "no plain file name"),
        ({"a.weight": ".."}, "no plain file name"),
        ({"a.weight": "a\\b"}, "no plain file name"),
        ({"a.weight": ""}, "no plain file name"),
        ({"a.weight": "absent.safetensors"}, "the shard absent.safetensors that"),
        ({"other": "model-00001-of-00002.safetensors"}, "the tensor other is not in"),
        ({}, "expected an object 'weight_map'"),
        ({"a.weight": 3}, "expected an object 'weight_map'"),
        ([], "expected an object 'weight_map'"),
    ],
)
def test_indexes_that_cannot_be_followed(tmp_path, state, weight_map, told):
    save_file(state, tmp_path.parent / "w.safetensors")
    shards(tmp_path, state, weight_map=weight_map)
    assert told in refusal(tmp_path)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"weight_map": {"a": "b", "a": "c"}}', "\xff"])
def test_damaged_indexes(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text, encoding="latin-1")
    assert re.search("is damaged: expected JSON|names 'a' twice", refusal(tmp_path))


def test_a_tensor_in_two_shards(tmp_path, state):
    index = shards(tmp_path, state)
    save_file(state, tmp_path / "model-00002-of-00002.safetensors")
    assert "is in two shards" in refusal(index)


# -- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b"\x07", "no checkpoint that isthmus knows"),
        (b"just some text that is long enough", "no checkpoint that isthmus knows"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b'{"a": 1}', "JSON text"),
        (b"\x89HDF\r\n\x1a\n" + bytes(20), "HDF5"),
        (b"\x1f\x8b" + bytes(20), "gunzip"),
        (b"\x93NUMPY\x01\x00" + bytes(20), "NumPy"),
        (b"GGUF" + bytes(20), "GGUF"),
        (bytes(257) + b"ustar" + bytes(300), "tar archive"),
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ""])
def test_files_that_are_no_checkpoints(tmp_path, content, told, suffix):
    (tmp_path / f"w{suffix}").write_bytes(content)
    message = refusal(tmp_path / f"w{suffix}")
    assert told in message or (len(content) < 9 and "is truncated or no safetensors file" in message)


def test_missing_files_and_empty_folders(tmp_path):
    assert "does not exist" in refusal(tmp_path / "none.pt")
    assert "holds no model: expected one of model.safetensors" in refusal(tmp_path)
    (tmp_path / "adapter_model.safetensors").touch()
    assert "merge it into its base model" in refusal(tmp_path)
    assert "not a plain file" in refusal("/dev/null")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ([torch.ones(2)], "holds a list: expected a state dict"),
        (torch.ones(2), "holds a Tensor: expected a state dict"),
        ({}, "holds no tensors (it has nothing)"),
        ({"epoch": 3}, "holds no tensors (it has epoch (int))"),
        ({3: torch.ones(2)}, "under the key 3"),
        ({"w": torch.ones(2, 2).to_sparse()}, "the tensor w of"),
        ({"w": torch.ones(2, device="meta")}, "without values"),
        ({"w": torch.ones(1).expand(1 << 30)}, "unfolds 4 stored bytes"),
        ({"w": torch.tensor([1.0, torch.nan])}, "the tensor w of"),
        ({"w": torch.ones(1), "b": torch.tensor(torch.inf)}, "the tensor b of"),
        ({"w": torch.tensor([torch.nan]).to(torch.float8_e4m3fn)}, "the tensor w of"),
    ],
)
def test_contents_that_are_no_state_dict(tmp_path, value, told):
    torch.save(value, tmp_path / "w.pt")
    assert told in refusal(tmp_path / "w.pt")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_quantised_tensors(tmp_path):
    torch.save({"w": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}, tmp_path / "w.pt")
    assert "the tensor w of" in refusal(tmp_path / "w.pt")
    assert "quantised" in refusal(tmp_path / "w.pt")


def test_nonfinite_values_pass_on_demand(tmp_path):
    torch.save({"w": torch.tensor([1.0, torch.inf])}, tmp_path / "w.pt")
    assert "pass allow_nonfinite=True" in refusal(tmp_path / "w.pt")
    assert load_weights(tmp_path / "w.pt", allow_nonfinite=True)["w"][1] == torch.inf


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_another_architecture_names_the_differences(tmp_path, suffix):
    path = save_weights(Weights.from_module(nn.Linear(2, 3)), tmp_path / f"w{suffix}")
    message = refusal(path, nn.Linear(2, 4, bias=False), LayoutError)
    assert str(path) in message
    assert "do not fit Linear: unexpected: bias; other shape: weight (expected [4, 2], got [3, 2])" in message
    assert "missing: 0.weight, 0.bias" in refusal(path, nn.Sequential(nn.Linear(2, 3)), LayoutError)


def test_a_header_that_names_a_tensor_twice(tmp_path):
    entry = '"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    header = f"{{{entry},{entry}}}".encode()
    content = len(header).to_bytes(8, "little") + header + bytes(4)
    (tmp_path / "w.safetensors").write_bytes(content)
    assert "names 'w' twice" in refusal(tmp_path / "w.safetensors")


def test_a_safetensors_file_truncated_anywhere(tmp_path, state):
    path = save_weights(Weights.from_state_dict(state), tmp_path / "w.safetensors")
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        assert re.search(r"is truncated|is empty", refusal(path))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_torch_file_truncated_anywhere(tmp_path, state, legacy):
    path = tmp_path / "w.pt"
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        assert re.search(r"truncated|is empty|damaged|no checkpoint that isthmus knows", refusal(path))


# -- code is never executed ---------------------------------------------------------------------


class Bomb:
    """A pickle that makes a file when it is opened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def bombs(folder: Path, mark: Path):
    """Files that would make `mark` if anything in them were executed."""
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path = folder / f"plain{protocol}.pt"
        path.write_bytes(pickle.dumps({"w": Bomb(mark)}, protocol))
        yield path
    for legacy in (False, True):
        path = folder / f"torch{legacy}.pt"
        value = {"w": torch.ones(2), "x": Bomb(mark)}
        torch.save(value, path, _use_new_zipfile_serialization=not legacy)
        yield path
    with zipfile.ZipFile(folder / "made.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Bomb(mark), 2))
        archive.writestr("archive/version", "3\n")
    yield folder / "made.pt"


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".bin"])
def test_a_pickle_with_code_is_refused_and_not_executed(tmp_path, suffix):
    mark = tmp_path / "executed"
    for path in bombs(tmp_path, mark):
        renamed = path.rename(path.with_suffix(suffix))
        message = refusal(renamed)
        assert not mark.exists()
        # Protocols 0 and 1 begin with no mark of a pickle: they are not even recognised.
        if suffix != ".safetensors" and path.stem not in ("plain0", "plain1"):
            assert "it was refused, and nothing in it was executed" in message
        if suffix != ".safetensors" and path.stem.startswith(("torch", "made")):
            assert "system, which is code" in message
    assert pickle.loads((tmp_path / f"plain2{suffix}").read_bytes()) == {"w": 0}
    assert mark.exists(), "the bomb of this test must be a live one"


def test_a_whole_module_is_refused_by_name(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "w.pt")
    message = refusal(tmp_path / "w.pt")
    assert "torch.nn.modules.linear.Linear" in message
    assert "model.state_dict()" in message


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused(tmp_path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "w.pt")
    assert "TorchScript program, which is code" in refusal(tmp_path / "w.pt")


def test_a_zip_that_torch_did_not_write(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert re.search("not one of torch.save|damaged", refusal(tmp_path / "w.pt"))


# -- mutations ----------------------------------------------------------------------------------


def mutate(content: bytes, generator: random.Random) -> bytes:
    """A few random changes: bytes, bits, cuts, repeats, and numbers or names of the format itself."""
    text = bytearray(content)
    for _ in range(generator.choice((1, 1, 2, 5))):
        at = generator.randrange(len(text))
        match generator.randrange(6):
            case 0:
                text[at] = generator.randrange(256)
            case 1:
                text[at] ^= 1 << generator.randrange(8)
            case 2:
                del text[at : at + generator.randrange(1, 9)]
            case 3:
                text[at:at] = text[at : at + generator.randrange(1, 9)]
            case 4:
                text[at : at + 4] = generator.choice((b"\xff" * 4, bytes(4), b"9999", b"\x7f\xff\xff\xff"))
            case 5:
                old = generator.choice((b"F32", b"[", b"0", b"weight", b"torch", b"Float", b"data.pkl"))
                text = bytearray(bytes(text).replace(old, generator.choice((b"F64", b"-1", b"", b"os")), 1))
        if not text:
            return b""
    return bytes(text)


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_mutated_files_are_read_or_refused(tmp_path, state, kind):
    generator = random.Random(f"mutations of {kind}")
    path = tmp_path / "w"
    if kind == "safetensors":
        save_weights(Weights.from_state_dict(state), path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    content, like = path.read_bytes(), Weights.from_state_dict(state)
    messages = []
    for number in range(300):
        path.write_bytes(mutate(content, generator))
        try:
            load_weights(path, like if number % 2 else None, allow_nonfinite=number % 3 == 0)
        except (CheckpointError, LayoutError) as error:
            messages.append(str(error))
    assert 0 < len(messages) < 300
    assert all(str(path) in message for message in messages)


@given(st.binary(max_size=200))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_arbitrary_bytes_are_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "arbitrary"
    for head in (b"", b"PK\x03\x04", b"\x80\x02", len(content).to_bytes(8, "little") + b"{"):
        path.write_bytes(head + content)
        with pytest.raises(IsthmusError):
            load_weights(path)


# -- real checkpoints ---------------------------------------------------------------------------


@pytest.mark.skipif(not REAL, reason="needs the checkpoints of the data folder: set ISTHMUS_DATA")
@pytest.mark.parametrize(("depth", "coordinates"), [(20, 269_722), (56, 853_018)])
def test_strangers_checkpoints_load(depth, coordinates):
    folder = Path(REAL or "") / f"checkpoints/cifar10_resnet/resnet{depth}"
    if not folder.is_dir():
        pytest.skip(f"needs {folder}")
    for path in folder.glob("*.th"):
        checkpoint = read_checkpoint(path)
        assert checkpoint.weights.layout.numel == coordinates
        assert checkpoint.unwrapped[1] == "took the prefix 'module.' off every name"


def test_an_archive_that_unfolds_without_measure_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", b"\0" * 10)
        archive.writestr("bomb/data/0", b"\0" * (1 << 25))
    with pytest.raises(CheckpointError, match="would unfold to"):
        load_weights(path)
