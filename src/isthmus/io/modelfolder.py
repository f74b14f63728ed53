"""A copy of a Hugging Face folder with other weights, which appears whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from isthmus.atomic import flush
from isthmus.errors import SettingError
from isthmus.io.huggingface import CONFIG

RECORD = "isthmus.json"
"""Where isthmus says how it made a folder."""

_WEIGHTS = frozenset(
    {
        ".safetensors", ".bin", ".pt", ".pth", ".th", ".ckpt", ".h5", ".msgpack", ".ot", ".onnx",
        ".onnx_data", ".gguf", ".ggml", ".tflite",
    }
)  # fmt: skip
_NOT_COPIED = frozenset({".git", ".cache", "__pycache__"})
_ROOM = 1.02


def is_weight_file(path: Path) -> bool:
    """Whether a file holds weights, or an index of them, in any of the formats that model folders have.

    Example:
        >>> [is_weight_file(Path(name)) for name in ("model.safetensors", "tokenizer.json")]
        [True, False]
    """
    return path.suffix.lower() in _WEIGHTS or path.name.endswith(".index.json")


def companions(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files of a model folder that are no weights, and those that are, as paths within it.

    Those of version control and of download caches are neither.
    """
    found = sorted(
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.is_file() and not _NOT_COPIED & set(path.relative_to(folder).parts)
    )
    return [p for p in found if not is_weight_file(p)], [p for p in found if is_weight_file(p)]


def shard_size(folder: Path) -> int:
    """The most bytes for a file, so that a copy falls into about as many files as the folder's weights."""
    sizes = [(folder / p).stat().st_size for p in companions(folder)[1] if p.parent == Path()]
    sharded = any(folder.glob("*.index.json"))
    return max(1, int((max(sizes, default=0) if sharded else 4 * sum(sizes)) * _ROOM))


def copy_companions(source: Path, target: Path) -> None:
    """Make the files of `target` that are no weights those of `source`; links are followed."""
    for path in companions(target)[0]:
        (target / path).unlink()
    for path in companions(source)[0]:
        if path.name != RECORD:
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / path, target / path)


def require_folder(path: Path, force: bool, *sources: Path) -> None:
    """Refuse a place for a new model folder where something is that must not be lost.

    Args:
        path: where the folder is to be.
        force: whether a model folder that is there may be replaced.
        sources: folders that are read: the new one may neither hold nor lie in one of them.

    Raises:
        SettingError: naming what is there, and what to do.
    """
    final = path.resolve()
    for source in (each.resolve() for each in sources):
        if final == source or source in final.parents or final in source.parents:
            raise SettingError(
                f"--out {path} is, holds or lies in {source}, which is only read: choose a folder of its own"
            )
    if not path.exists():
        above = next(parent for parent in final.parents if parent.exists())
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            raise SettingError(f"cannot write {path}: {above} is not a folder that may be written to")
        return
    if not path.is_dir():
        raise SettingError(f"{path} is a file: the aligned model is a folder; give another --out")
    entries = {entry.name for entry in path.iterdir()}
    if entries and not force:
        raise SettingError(f"{path} exists already; give another --out, or --force to replace it")
    if entries and CONFIG not in entries:
        raise SettingError(
            f"{path} holds no model ({', '.join(sorted(entries)[:3])}), so it is not replaced even by force; "
            "give another --out"
        )


@contextmanager
def folder_in_place(path: Path) -> Iterator[Path]:
    """A temporary folder to write to; it becomes `path` when the block ends well, and vanishes otherwise.

    What is at `path` is replaced: ask `require_folder` first.

    Raises:
        SettingError: the file system refuses.
    """
    final = path.resolve()
    mark = secrets.token_hex(6)
    fresh, old = (final.with_name(f".{final.name[:100]}.{mark}.{kind}.tmp") for kind in ("new", "old"))
    try:
        fresh.mkdir(parents=True)
        yield fresh
        mode = fresh.stat().st_mode & 0o666
        for file in sorted(fresh.rglob("*")):
            if file.is_file():
                file.chmod(mode)  # safetensors writes for the owner alone
            flush(file)
        flush(fresh)
        if final.exists():
            final.rename(old)
        try:
            fresh.rename(final)
        except OSError:
            if old.exists():
                old.rename(final)
            raise
        flush(final.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise SettingError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
