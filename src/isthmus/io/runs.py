"""A run folder: everything a procedure made, named by all that determines it, safe against any kill.

Every file is written atomically, so a file that is there is whole. A procedure asks the run for each of its
results by name; what is there is read, what is not is computed and written. So the same command, given
again, goes on where it was stopped, and a finished run is not computed twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from isthmus.atomic import write_text_atomic
from isthmus.errors import CheckpointError, RunError
from isthmus.io.checkpoints import load_weights, save_weights
from isthmus.io.records import read_record, write_record
from isthmus.io.state import FileStore
from isthmus.network import Network
from isthmus.weights import Weights

Record = TypeVar("Record")

_ABOUT = "run.json"
_LOCK = ".lock"


@dataclass(frozen=True)
class Run:
    """An open run folder. Use `Run.open`, and `close` when the procedure has ended.

    Attributes:
        folder: where everything is.
    """

    folder: Path
    _lock: FileLock

    @classmethod
    def open(cls, folder: Path, kind: str, identity: Mapping[str, object]) -> Run:
        """Begin a run in a new or empty folder, or go on with the same run in its own.

        Args:
            folder: the run's folder.
            kind: the procedure.
            identity: every input and setting that determines the results, with the data's fingerprints.

        Raises:
            RunError: the folder holds something else, or another run (naming what differs), or another
                process is working in it.
        """
        about = folder / _ABOUT
        body = {"procedure": kind, "identity": {key: str(value) for key, value in identity.items()}}
        if folder.exists() and not folder.is_dir():
            raise RunError(f"the output {folder} is a file; a folder is needed")
        if about.exists():
            _require_same(folder, about, body)
        elif folder.is_dir() and any(not _own(entry) for entry in folder.iterdir()):
            raise RunError(
                f"the output folder {folder} is not empty and holds no run; choose another --out or empty it"
            )
        lock = FileLock(folder / _LOCK)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            raise RunError(
                f"another process is working in {folder}; wait for it, or choose another --out"
            ) from None
        except OSError as error:
            raise RunError(f"cannot write to the folder {folder}: {error.strerror or error}") from error
        for leftover in folder.rglob(".*.tmp"):  # of a killed process: nobody else works here
            leftover.unlink(missing_ok=True)
        if not about.exists():
            write_text_atomic(about, json.dumps(body, indent=1, ensure_ascii=False) + "\n")
        return cls(folder, lock)

    def path(self, name: str) -> Path:
        """The path of a file of this run."""
        return self.folder / name

    def record(self, name: str, kind: type[Record], compute: Callable[[], Record]) -> Record:
        """The record of this name: read if it is there, else computed and written."""
        path = self.path(f"records/{name}.json")
        if not path.exists():
            write_record(compute(), path)
        return read_record(path, kind)

    def weights(self, name: str, compute: Callable[[], Weights], like: Network | None = None) -> Weights:
        """The checkpoint of this name: read if it is there, else computed and written.

        Raises:
            RunError: the file is damaged.
        """
        path = self.path(f"{name}.safetensors")
        if not path.exists():
            save_weights(compute(), path)
        try:
            return load_weights(path, like=like)
        except CheckpointError as error:
            raise RunError(
                f"{error} It is a file of this run: delete it and give the command again."
            ) from error

    def store(self, name: str) -> FileStore:
        """Where the state of a procedure within the run is kept."""
        return FileStore(self.path(f"state/{name}.safetensors"))

    def close(self) -> None:
        """End the run: let go of the folder, and remove what only an unfinished run needs."""
        state = self.folder / "state"
        if state.is_dir() and not any(state.iterdir()):
            state.rmdir()
        (self.folder / _LOCK).unlink(missing_ok=True)  # before its release: nobody may take what is unlinked
        self._lock.release()


def _own(entry: Path) -> bool:
    """Whether an entry of a folder without a run is what a run leaves that was killed as it began."""
    return entry.name == _LOCK or (entry.name.startswith(".") and entry.suffix == ".tmp")


def _require_same(folder: Path, about: Path, body: Mapping[str, object]) -> None:
    """Refuse a folder that belongs to another run, and say what differs."""
    try:
        found = json.loads(about.read_text(encoding="utf-8"))
        mine, theirs = body["identity"], found["identity"]
        kind, _ = found["procedure"], theirs.keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{about} is damaged ({error}); choose another --out or delete the folder") from error
    if kind != body["procedure"]:
        raise RunError(f"{folder} holds a run of {kind}, not of {body['procedure']}; choose another --out")
    assert isinstance(mine, dict)
    differing = [key for key in {**theirs, **mine} if theirs.get(key) != mine.get(key)]
    if differing:
        told = "; ".join(f"{key} was {theirs.get(key)}, is now {mine.get(key)}" for key in differing[:3])
        raise RunError(f"{folder} holds another run ({told}); choose another --out or delete the folder")
