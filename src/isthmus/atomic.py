"""Files that appear whole or not at all.

A file is written under a temporary name in the folder where it belongs, flushed to the disk, and then renamed
over its final name: a reader, or a machine that loses power, sees the old file or the new one, never a part.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from isthmus.errors import SettingError


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path to write to; it becomes `path` when the block ends well, and vanishes otherwise.

    Missing parent folders are made. A symbolic link is followed, so that the file it points to is replaced.

    Args:
        path: the final name.

    Raises:
        SettingError: the path is a folder or a device, or the file system refuses to write there.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic_path(Path(folder, "new", "a.txt")) as temporary:
        ...         _ = temporary.write_text("whole")
        ...     [found.name for found in Path(folder, "new").iterdir()]
        ['a.txt']
    """
    final = Path(os.path.realpath(path))
    if final.is_dir():
        raise SettingError(f"{path} is a folder: expected the name of a file to write")
    if final.exists() and not final.is_file():
        raise SettingError(f"{path} is a device or a pipe: expected the name of a plain file to write")
    # A leading dot and a tail no reader looks for: what a killed process leaves is not taken for a result.
    temporary = final.with_name(f".{final.name[:100]}.{secrets.token_hex(6)}.tmp")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        # Made here, exclusively, so that it has the permissions the user's umask gives to a new file.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # a writer that puts a file of its own in this place may have narrowed it
        flush(temporary)
        temporary.replace(final)
        flush(final.parent)
    except OSError as error:
        raise SettingError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_bytes_atomic(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file of these bytes, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text_atomic(path: str | os.PathLike[str], content: str) -> None:
    """Write a UTF-8 text file, whole or not at all; line ends are written as they are."""
    write_bytes_atomic(path, content.encode())


def flush(path: Path) -> None:
    """Make a file's content, or a folder's entries, reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
