"""Checkpoints in and out: safetensors, files of `torch.save`, Hugging Face folders.

Nothing in a checkpoint is ever executed, and every checkpoint that cannot be read for certain is refused with
a sentence that says what was expected, what came, where, and what to do.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from isthmus.atomic import atomic_path
from isthmus.errors import CheckpointError, LayoutError, SettingError
from isthmus.io.tensorfiles import MOST_UNFOLDING, SMALL, Contents, parse_json, read_contents
from isthmus.io.unwrap import State, unwrap
from isthmus.network import Network
from isthmus.weights import Weights

_TORCH_SUFFIXES = (".pt", ".pth", ".th", ".bin", ".ckpt")
_FOLDER_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_OWN_KEY = "isthmus"
_RESERVED = ("format", _OWN_KEY)
_BLOCK = 1 << 20


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Weights with where they came from.

    Attributes:
        weights: what was read.
        path: the file or folder.
        format: the format in words.
        sha256: of the file; of several files, the digest of the lines "digest  name".
        unwrapped: a sentence for each thing that was taken off, left out or converted.
        metadata: the texts that the writer put beside the tensors.
    """

    weights: Weights
    path: Path
    format: str
    sha256: str
    unwrapped: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Tensors:
    """The tensors of a checkpoint by name, before any layout; the other attributes are a `Checkpoint`'s."""

    state: State
    format: str
    sha256: str
    unwrapped: tuple[str, ...]
    metadata: Mapping[str, str]


def load_weights(
    path: str | os.PathLike[str],
    like: Weights | Network | nn.Module | None = None,
    *,
    allow_nonfinite: bool = False,
) -> Weights:
    """The weights in a checkpoint.

    Args:
        path: a safetensors file, a file of torch.save, or a Hugging Face folder.
        like: the architecture that is expected; the weights come out in its layout. Without it, what the file
            says of itself counts, or the conventions of `Weights.from_state_dict`.
        allow_nonfinite: accept NaN and infinity.

    Raises:
        CheckpointError: the checkpoint cannot be read, is unsafe, damaged, or holds NaN or infinity.
        LayoutError: it belongs to another architecture.

    Example:
        >>> import tempfile, torch
        >>> module = torch.nn.Linear(2, 1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = save_weights(Weights.from_module(module), f"{folder}/a.safetensors")
        ...     load_weights(file, like=module).equal(Weights.from_module(module))
        True
    """
    return read_checkpoint(path, like, allow_nonfinite=allow_nonfinite).weights


def read_checkpoint(
    path: str | os.PathLike[str],
    like: Weights | Network | nn.Module | None = None,
    *,
    allow_nonfinite: bool = False,
) -> Checkpoint:
    """The weights in a checkpoint, with its format, its digest and what had to be unwrapped.

    Takes, returns and raises as `load_weights` does. Costs one reading of the file for its digest, and a copy
    of the weights in memory beside the mapped file.
    """
    source = Path(path)
    reference, owner = _reference(like)
    wanted = frozenset(reference.state_dict()) if reference is not None else None
    found = read_tensors(source, wanted, allow_nonfinite=allow_nonfinite)
    if reference is None:
        weights, more = _self_described(found.state, found.metadata)
    else:
        weights, more = _conformed(found.state, reference, owner, source)
    metadata = {name: text for name, text in found.metadata.items() if name not in _RESERVED}
    return Checkpoint(weights, source, found.format, found.sha256, (*found.unwrapped, *more), metadata)


def read_tensors(
    path: str | os.PathLike[str], wanted: frozenset[str] | None = None, *, allow_nonfinite: bool = False
) -> Tensors:
    """The tensors in a checkpoint under the names that its owner gave them, mapped from the file.

    Args:
        path: as for `load_weights`.
        wanted: the names that the model has, if it is known: prefixes come off only as far as more fit.
        allow_nonfinite: accept NaN and infinity.

    Raises:
        CheckpointError: the checkpoint cannot be read, is unsafe, damaged, or holds NaN or infinity.
    """
    source = Path(path)
    try:
        contents, state, notes, digest = _read_any(source, wanted)
    except OSError as error:
        raise CheckpointError(f"cannot read {error.filename or path}: {error.strerror or error}") from None
    _require_bounded(state, source)
    if not allow_nonfinite and (name := _first_nonfinite(state)):
        raise CheckpointError(
            f"the tensor {name} of {path} holds NaN or infinity: expected finite numbers. The training may "
            "have diverged; take an earlier checkpoint, or pass allow_nonfinite=True"
        )
    return Tensors(state, contents.format, digest, notes, contents.metadata)


def save_weights(
    weights: Weights, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None
) -> Path:
    """Write weights to a file that plain torch or safetensors loads, whole or not at all.

    The tensors are written in their owner's dtypes, a tied parameter under each of its names; names,
    buffers and ties are recorded beside them, so that `load_weights` gives back equal weights (coordinates
    that a narrow dtype cannot hold come back rounded: see `Weights.rounded`). The same weights and metadata
    give the same bytes.

    Args:
        weights: what to write.
        path: ends in `.pt`, `.pth`, `.th`, `.bin` or `.ckpt` for a plain state dict of torch.save;
            safetensors otherwise. Missing parent folders are made.
        metadata: texts to write beside the tensors.

    Returns:
        The path.

    Raises:
        SettingError: the path is a folder or cannot be written, or the metadata uses a reserved name.
        CheckpointError: safetensors has no such dtype.
    """
    target = Path(path)
    texts = dict(metadata or {})
    if taken := [name for name in _RESERVED if name in texts]:
        raise SettingError(f"the metadata name {taken[0]!r} is reserved: choose another name")
    described = json.dumps(
        {
            "names": list(weights.layout.names),
            "buffers": list(weights.buffers),
            "aliases": [list(pair) for pair in weights.layout.aliases],
        },
        separators=(",", ":"),
    )
    state = {n: t.cpu().resolve_conj().resolve_neg().contiguous() for n, t in weights.state_dict().items()}
    with atomic_path(target) as temporary:
        try:
            if target.suffix.lower() in _TORCH_SUFFIXES:
                _write_torch(state, temporary, {**texts, _OWN_KEY: described})
            else:
                _write_safetensors(state, temporary, {**texts, "format": "pt", _OWN_KEY: described})
        except (SafetensorError, RuntimeError) as error:  # how the two libraries tell of a full disk
            raise SettingError(f"cannot write {path}: {error}") from error
    return target


# -- reading ------------------------------------------------------------------------------------


def _read_any(source: Path, wanted: frozenset[str] | None) -> tuple[Contents, State, tuple[str, ...], str]:
    """Contents, state dict, what was unwrapped, and the digest, of a file or folder."""
    if not source.exists():
        raise CheckpointError(f"{source} does not exist: expected a checkpoint file or a model folder")
    if source.is_dir():
        source = _inside(source)
    if not source.is_file():
        raise CheckpointError(f"{source} is not a plain file: expected a checkpoint file or a model folder")
    if source.name.endswith(".index.json"):
        return _read_shards(source, wanted)
    digest = _sha256(source)
    contents = read_contents(source)
    state, notes = unwrap(contents.value, str(source), wanted)
    return contents, state, notes, digest


def _inside(folder: Path) -> Path:
    """The file of a Hugging Face folder to read."""
    for name in _FOLDER_FILES:
        if (folder / name).exists():
            return folder / name
    found = sorted(item.name for item in folder.iterdir())[:4]
    hint = ""
    if any(name.startswith("adapter_model") for name in found):
        hint = ". It holds an adapter (LoRA): merge it into its base model first"
    raise CheckpointError(
        f"the folder {folder} holds no model: expected one of {', '.join(_FOLDER_FILES)}, got "
        f"{', '.join(found) or 'an empty folder'}{hint}; "
        "if the checkpoint has another name, pass the file itself"
    )


def _read_shards(index: Path, wanted: frozenset[str] | None) -> tuple[Contents, State, tuple[str, ...], str]:
    """All shards that an index names, as one state dict."""
    listed = parse_json(index.read_bytes(), str(index))
    places = listed.get("weight_map") if isinstance(listed, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(s, str) for s in places.values()):
        raise CheckpointError(
            f"the index {index} is damaged: expected an object 'weight_map' of tensor names to file names"
        )
    shards = sorted(set(places.values()))
    lines = [f"{_sha256(index)}  {index.name}"]
    merged: State = {}
    kind = ""
    for shard in shards:
        file = _shard_path(index, shard)
        contents = read_contents(file)
        lines.append(f"{_sha256(file)}  {shard}")
        kind = contents.format
        # Prefixes are judged below, on all names together.
        part, _ = unwrap(contents.value, str(file), frozenset(places))
        if twice := next((name for name in part if name in merged), None):
            raise CheckpointError(
                f"the tensor {twice} is in two shards of {index}: write the checkpoint anew"
            )
        if lost := next((n for n, place in places.items() if place == shard and n not in part), None):
            raise CheckpointError(f"the tensor {lost} is not in {file}, where {index} says: fetch both anew")
        merged |= part
    state, notes = unwrap(merged, str(index), wanted)
    described = Contents(merged, f"folder of {len(shards)} shards, {kind}")
    return described, state, notes, hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _shard_path(index: Path, shard: str) -> Path:
    """The file of a shard, which must lie beside its index."""
    if not shard or "/" in shard or "\\" in shard or "\0" in shard or shard in (".", ".."):
        raise CheckpointError(
            f"the index {index} names the shard {shard!r}, which is no plain file name: refused, because a "
            "shard must lie beside its index"
        )
    if not (index.parent / shard).is_file():
        raise CheckpointError(
            f"the shard {shard} that {index} names is missing: fetch it into the same folder"
        )
    return index.parent / shard


def _sha256(path: Path) -> str:
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            total.update(block)
    return total.hexdigest()


def _require_bounded(state: State, source: Path) -> None:
    """Refuse views that unfold a small storage to a size nobody saves."""
    for name, tensor in state.items():
        size, stored = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
        if size > max(MOST_UNFOLDING * stored, SMALL):
            raise CheckpointError(
                f"the tensor {name} of {source} unfolds {stored:,} stored bytes to {size:,}: refused as "
                "damaged; save a contiguous copy"
            )


def _first_nonfinite(state: State) -> str | None:
    for name, tensor in state.items():
        if not (tensor.is_floating_point() or tensor.is_complex()):
            continue
        # isfinite knows only some of the one-byte dtypes.
        wide = tensor.float() if tensor.element_size() == 1 else tensor
        if not bool(wide.isfinite().all()):
            return name
    return None


# -- from a state dict to weights ---------------------------------------------------------------


def _reference(like: Weights | Network | nn.Module | None) -> tuple[Weights | None, str]:
    if like is None:
        return None, ""
    if isinstance(like, Weights):
        return like, "the weights it is compared with"
    if isinstance(like, Network):
        return like.reference, type(like.module).__name__
    return Weights.from_module(like), type(like).__name__


def _self_described(state: State, texts: Mapping[str, str]) -> tuple[Weights, tuple[str, ...]]:
    """Weights as the file itself describes them, or by the conventions for a bare state dict."""
    if _OWN_KEY not in texts:
        return Weights.from_state_dict(state), ()
    try:
        found = json.loads(texts[_OWN_KEY])
        names, buffers = list(found["names"]), list(found["buffers"])
        aliases = {str(other): str(name) for other, name in found["aliases"]}
        consistent = sorted([*names, *buffers, *aliases]) == sorted(state) and set(aliases.values()) <= set(
            names
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        consistent = False
    if not consistent:
        note = "what the file says of its buffers and ties does not fit its tensors, and was not used"
        return Weights.from_state_dict(state), (note,)
    ordered = {name: state[name] for name in (*names, *aliases, *buffers)}
    return Weights.from_state_dict(ordered, buffers, aliases), ()


def _conformed(state: State, reference: Weights, owner: str, source: Path) -> tuple[Weights, tuple[str, ...]]:
    """Weights in the layout of the reference, and what had to be converted."""
    ties = {other: name for other, name in reference.layout.aliases if other in state and name in state}
    for other, name in ties.items():
        if state[other].shape == state[name].shape and not _same(state[other], state[name]):
            raise LayoutError(
                f"{source} does not fit {owner}: the model ties {other} to {name}, but the checkpoint holds "
                "different values for them"
            )
    notes = _conversions(state, reference, owner, source)
    known = [name for name in reference.buffers if name in state]
    try:
        return Weights.from_state_dict(state, known, ties).conform(reference, owner), notes
    except LayoutError as error:
        raise LayoutError(f"{source} is of another architecture: {error}") from None


def _same(mine: Tensor, theirs: Tensor) -> bool:
    return bool(torch.isclose(mine, theirs, rtol=0, atol=0, equal_nan=True).all())


def _conversions(state: State, reference: Weights, owner: str, source: Path) -> tuple[str, ...]:
    """Name the changes of dtype that the reference asks for; refuse those to another kind of number."""
    own = dict(zip(reference.layout.names, reference.layout.dtypes, strict=True))
    own |= {name: buffer.dtype for name, buffer in reference.buffers.items()}
    own |= {other: own[name] for other, name in reference.layout.aliases}
    changed: dict[tuple[torch.dtype, torch.dtype], list[str]] = {}
    for name, tensor in state.items():
        if name not in own or own[name] == tensor.dtype:
            continue
        if not torch.can_cast(tensor.dtype, own[name]):
            raise LayoutError(
                f"{source} does not fit {owner}: {name} is {_dtype(tensor.dtype)} in the checkpoint and "
                f"{_dtype(own[name])} in the model"
            )
        changed.setdefault((tensor.dtype, own[name]), []).append(name)
    return tuple(
        f"converted {len(names)} tensors from {_dtype(got)} to {_dtype(into)} ({names[0]} first)"
        for (got, into), names in changed.items()
    )


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# -- writing ------------------------------------------------------------------------------------


def _write_torch(state: State, path: Path, texts: Mapping[str, str]) -> None:
    """A plain state dict; the texts go where modules keep the versions of their state."""
    ordered = OrderedDict(state)
    ordered._metadata = {"": {}, _OWN_KEY: dict(sorted(texts.items()))}  # type: ignore[attr-defined]
    with path.open("wb") as file:
        # Through a file object: given a name, torch would write the temporary name into the archive.
        torch.save(ordered, file)


def _write_safetensors(state: State, path: Path, texts: Mapping[str, str]) -> None:
    try:
        save_file(state, path, metadata=dict(texts))
    except KeyError as error:
        lacking = _dtype(error.args[0]) if isinstance(error.args[0], torch.dtype) else str(error)
        raise CheckpointError(
            f"safetensors has no {lacking}: save to a name that ends in .pt instead"
        ) from None
    _sort_metadata(path)


def _sort_metadata(path: Path) -> None:
    """Put the metadata of a safetensors header in order: its writer leaves them in one that varies by run."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= length:
            file.seek(8)
            file.write(text.ljust(length))
