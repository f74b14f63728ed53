"""What one file holds: safetensors, or what `torch.save` wrote, told apart by content.

Nothing is executed. A pickle is opened by torch's weights-only reader alone, which builds tensors and plain
containers and refuses everything else before it runs. The name's extension is not trusted.
"""

from __future__ import annotations

import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open

from isthmus.errors import CheckpointError

Kind = Literal["safetensors", "zip", "pickle"]

MOST_UNFOLDING, SMALL = 100, 1 << 24
"""Content may be this many times the bytes that hold it; below so many bytes it does not matter."""

_OWN_KEY = "isthmus"
_TAR_MARK = slice(257, 262)
_FOREIGN = (
    (b"version https://git-lfs", "a Git LFS pointer and not the file itself: run `git lfs pull`"),
    (b"\x89HDF", "an HDF5 file (Keras?), which isthmus does not read: export the weights as safetensors"),
    (b"GGUF", "a GGUF file, which isthmus does not read: export the weights as safetensors"),
    (b"\x93NUMPY", "a NumPy array, not a checkpoint of named tensors: save them as safetensors"),
    (b"\x1f\x8b", "compressed with gzip: decompress it first (`gunzip`)"),
    (b"<", "a web page or XML, not a checkpoint: was the download complete?"),
    (b"{", "JSON text, not a checkpoint: pass the folder that holds the model"),
)


@dataclass(frozen=True)
class Contents:
    """What a file held, as it was found.

    Attributes:
        value: names to tensors for safetensors; whatever was saved for torch.
        format: the format in words.
        metadata: texts that the writer put beside the tensors.
    """

    value: Any
    format: str
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_contents(path: Path) -> Contents:
    """Read one checkpoint file without executing anything in it.

    Raises:
        CheckpointError: the file is missing, empty, damaged, of another format, or holds a pickle with code.
    """
    kind = _sniff(path)
    if kind == "safetensors":
        return _read_safetensors(path)
    return _read_torch(path, kind)


def parse_json(text: bytes, what: str) -> Any:
    """JSON in which no object names a key twice.

    Raises:
        CheckpointError: it is no JSON, or a key comes twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_distinct)
    except _DuplicateKeyError as error:
        raise CheckpointError(
            f"{what} names {error.args[0]!r} twice, so it does not say which of the two is meant: "
            "write the checkpoint anew"
        ) from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{what} is damaged: expected JSON, got an error ({error}); fetch or write the file anew"
        ) from None


class _DuplicateKeyError(Exception):
    pass


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _DuplicateKeyError(name)
        found[name] = value
    return found


def _sniff(path: Path) -> Kind:
    """The format, from the first bytes."""
    with path.open("rb") as file:
        head = file.read(512)
    size = path.stat().st_size
    if not head:
        raise CheckpointError(f"{path} is empty (0 bytes): expected a checkpoint; write or fetch it anew")
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head[8:9] == b"{" or (len(head) < 9 and path.suffix == ".safetensors"):
        length, follow = int.from_bytes(head[:8], "little"), max(size - 8, 0)
        if len(head) < 9 or length > follow:
            raise CheckpointError(
                f"{path} is truncated or no safetensors file: its first 8 bytes announce a header of "
                f"{length:,} bytes, and {follow:,} bytes follow; fetch or write it anew"
            )
        return "safetensors"
    for mark, reason in _FOREIGN:
        if head.startswith(mark):
            raise CheckpointError(f"{path} is {reason}")
    if head[_TAR_MARK] == b"ustar":
        raise CheckpointError(
            f"{path} is a tar archive (torch before 0.1.10, or a packed folder): unpack it, or save it anew"
        )
    if head[0] == 0x80 and len(head) > 1 and head[1] <= pickle.HIGHEST_PROTOCOL:
        return "pickle"
    raise CheckpointError(
        f"{path} is no checkpoint that isthmus knows: expected safetensors or a file of torch.save, got "
        f"{size:,} bytes that begin with {head[:8]!r}"
    )


def _read_safetensors(path: Path) -> Contents:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        raw = file.read(length)
    header = parse_json(raw, f"the header of {path}")
    if not isinstance(header, dict):
        raise CheckpointError(f"the header of {path} is damaged: expected a JSON object; fetch the file anew")
    _require_length(path, header, 8 + length)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except Exception as error:
        # The reader raises its own error, but also KeyError and others for dtypes torch has not.
        raise CheckpointError(
            f"{path} is a damaged safetensors file ({_first_line(error)}): fetch or write it anew"
        ) from None
    texts = header.get("__metadata__", {})
    return Contents(tensors, "safetensors", {str(k): str(v) for k, v in texts.items()})


def _require_length(path: Path, header: Mapping[str, Any], start: int) -> None:
    """Tell a truncated file from its header, in bytes; anything odd is left to the reader."""
    ends = [
        entry["data_offsets"][1]
        for entry in header.values()
        if isinstance(entry, dict)
        and isinstance(entry.get("data_offsets"), list)
        and len(entry["data_offsets"]) == 2
        and isinstance(entry["data_offsets"][1], int)
    ]
    wanted, size = start + max(ends, default=0), path.stat().st_size
    if size < wanted:
        raise CheckpointError(
            f"{path} is truncated: its header announces {wanted:,} bytes, the file has {size:,}; "
            "fetch or write it anew"
        )


def _read_torch(path: Path, kind: Kind) -> Contents:
    """Open a file of torch.save with the weights-only reader, which executes nothing."""
    if kind == "zip":
        _require_stored(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # The reader raises nearly every kind of error on damaged input; each means that nothing was loaded.
        raise _torch_error(path, kind, error) from None
    return Contents(value, "torch (zip)" if kind == "zip" else "torch (legacy pickle)", _own_texts(value))


def _require_stored(path: Path) -> None:
    """Refuse an archive that unfolds to far more than the file: torch stores its tensors uncompressed."""
    try:
        with zipfile.ZipFile(path) as archive:
            whole = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return  # damaged: the reader itself says how
    if whole > max(MOST_UNFOLDING * path.stat().st_size, SMALL):
        raise CheckpointError(
            f"{path} has {path.stat().st_size:,} bytes and would unfold to {whole:,}: torch.save writes no "
            "such file. It was not opened"
        )


def _torch_error(path: Path, kind: Kind, error: Exception) -> CheckpointError:
    """A sentence for what the weights-only reader refused."""
    text = str(error)
    if "TorchScript" in text:
        return CheckpointError(
            f"{path} is a TorchScript program, which is code: it was refused, and nothing in it was "
            "executed. Expected tensors only: save its state_dict() with isthmus.save_weights or torch.save"
        )
    if found := re.search(r"GLOBAL ([\w.<>]*\w)", text) or re.search(r"class ([\w.<>]*\w)", text):
        return CheckpointError(
            f"{path} is a pickle that asks for {found[1]}, which is code: it was refused, and nothing in it "
            "was executed. Expected tensors only. If it is your own whole model or training state, save "
            "model.state_dict() with torch.save, or as safetensors, and pass that file"
        )
    if kind == "pickle" and ("magic number" in text or isinstance(error, pickle.UnpicklingError)):
        return CheckpointError(
            f"{path} is a plain pickle (or a damaged file of torch.save), which could run code when opened: "
            "it was refused, and nothing in it was executed. Expected safetensors or torch.save(state_dict)"
        )
    if "data.pkl" in text:
        return CheckpointError(
            f"{path} is a zip archive, but not one of torch.save: expected safetensors or "
            "torch.save(state_dict)"
        )
    return CheckpointError(
        f"{path} is a truncated or damaged file of torch.save ({_first_line(error)}): fetch or write it anew"
    )


def _own_texts(value: object) -> dict[str, str]:
    """The texts that `save_weights` left beside a plain state dict."""
    versions = getattr(value, "_metadata", None)
    texts = versions.get(_OWN_KEY) if isinstance(versions, Mapping) else None
    return {str(k): str(v) for k, v in texts.items()} if isinstance(texts, Mapping) else {}


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:200].rstrip(". ")
