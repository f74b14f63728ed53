"""The file formats of the published image sets: IDX (the MNIST family) and the binary version of CIFAR-10.

Each file may be gzipped or not; its content says which, and not its name.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from isthmus.errors import DataError

ENVIRONMENT = "ISTHMUS_DATA"

_GZIP = b"\x1f\x8b"
_IDX_BYTES = 8
_CLASSES = 10
_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE
_RECORD = 1 + _PIXELS


def data_folder(data: str | os.PathLike[str] | None, wanted: str) -> Path:
    """The folder that holds the data sets.

    Args:
        data: the folder; by default the one that the environment variable ISTHMUS_DATA names.
        wanted: a sentence on the files that are looked for, for the error.

    Raises:
        DataError: no folder is named, or it does not exist.
    """
    named = os.fspath(data) if data is not None else os.environ.get(ENVIRONMENT)
    if not named:
        raise DataError(f"no data folder is named: {wanted}. Pass it as --data, or set {ENVIRONMENT}")
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise DataError(f"the data folder {folder} does not exist: {wanted}")
    return folder


def find_file(folders: Sequence[Path], name: str) -> Path | None:
    """The file of this name, or of this name and `.gz`, in the first folder that has it."""
    candidates = (folder / full for folder in folders for full in (name, f"{name}.gz"))
    return next((path for path in candidates if path.is_file()), None)


def read_idx(path: Path, dimensions: int) -> Tensor:
    """An IDX file of bytes, such as `train-images-idx3-ubyte.gz`.

    Args:
        path: the file.
        dimensions: how many the array must have: 1 for labels, 3 for images.

    Returns:
        A uint8 tensor of the shape that the file states.

    Raises:
        DataError: the file is damaged, of another format, or longer or shorter than it states.

    Source: LeCun, Cortes, Burges, the MNIST database (the format's four-byte magic number and big-endian
    sizes).
    """
    content = _content(path)
    start = 4 * (1 + dimensions)
    magic = bytes((0, 0, _IDX_BYTES, dimensions))
    if content[:4] != magic:
        raise DataError(
            f"{path} is no IDX file of {dimensions}-dimensional bytes: expected the magic number "
            f"{magic.hex()}, got {content[:4].hex() or 'an empty file'}; fetch the file anew"
        )
    if len(content) < start:
        raise DataError(f"{path} is truncated: it ends within its header; fetch the file anew")
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4)]
    if len(content) - start != math.prod(shape):
        raise DataError(
            f"{path} is damaged: its header announces {' × '.join(map(str, shape))} bytes, and "
            f"{len(content) - start:,} follow; fetch the file anew"
        )
    return _bytes(content)[start:].reshape(shape)


def read_cifar10(path: Path) -> tuple[Tensor, Tensor]:
    """One file of the binary version of CIFAR-10, such as `data_batch_1.bin`.

    Returns:
        Images, uint8 of shape (examples, 3, 32, 32), and labels, int64 of shape (examples,).

    Raises:
        DataError: the file is damaged or of another format.

    Source: Krizhevsky, the CIFAR-10 data set (records of one label byte and 3,072 bytes of pixels).
    """
    content = _content(path)
    if not content or len(content) % _RECORD:
        raise DataError(
            f"{path} is no file of CIFAR-10's binary version: expected a multiple of {_RECORD:,} bytes, "
            f"got {len(content):,}; fetch it anew (the version for Python is a pickle and is not read)"
        )
    records = _bytes(content).view(-1, _RECORD)
    return records[:, 1:].reshape(-1, 3, _SIDE, _SIDE), require_labels(records[:, 0], path)


def require_labels(labels: Tensor, path: Path) -> Tensor:
    """Labels as int64, after making sure that they are classes from 0 to 9."""
    if labels.numel() and int(labels.max()) >= _CLASSES:
        raise DataError(
            f"{path} is damaged: expected labels from 0 to {_CLASSES - 1}, got {int(labels.max())}; "
            "fetch the file anew"
        )
    return labels.long()


def _content(path: Path) -> bytes:
    """All bytes of a file, unpacked if it is gzipped."""
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if raw.startswith(_GZIP) else raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path} is a truncated or damaged gzip file ({str(error).rstrip('.')}): fetch it anew"
        ) from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None


def _bytes(content: bytes) -> Tensor:
    # A bytearray, because torch warns of buffers that it may not write to.
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)
