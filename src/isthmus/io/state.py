"""The state of a long procedure, saved as it goes, so that a kill costs seconds and changes nothing."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from isthmus.atomic import write_bytes_atomic
from isthmus.errors import RunError


class Store(Protocol):
    """Keeps the latest state of one procedure."""

    def load(self, identity: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The saved tensors and fields, or None if there is no state."""

    def save(self, identity: str, tensors: Mapping[str, Tensor], fields: Mapping[str, Any]) -> None:
        """Replace the saved state."""

    def due(self) -> bool:
        """Whether it is time to save again."""
        ...

    def clear(self) -> None:
        """Forget the state: the procedure is finished."""

    def part(self, name: str) -> Store:
        """Where a piece of the procedure keeps a state of its own."""
        ...


@dataclass(frozen=True)
class NoStore:
    """Keeps nothing."""

    def load(self, identity: str) -> None:
        """There is never a state."""

    def save(self, identity: str, tensors: Mapping[str, Tensor], fields: Mapping[str, Any]) -> None:
        """Keep nothing."""

    def due(self) -> bool:
        """Never."""
        return False

    def clear(self) -> None:
        """There is nothing to forget."""

    def part(self, name: str) -> NoStore:
        """Keeps nothing either."""
        return self


@dataclass
class FileStore:
    """Keeps the state in one safetensors file, replaced atomically.

    Attributes:
        path: the file.
        every: seconds between two saves. When a state is saved changes nothing in the result.
    """

    path: Path
    every: float = 5.0
    _last: float = field(default_factory=time.monotonic)

    def load(self, identity: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The saved state.

        Raises:
            RunError: the file is damaged, or is the state of other settings.
        """
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                header = json.loads((file.metadata() or {})["state"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise RunError(
                f"the saved state {self.path} is damaged ({error}); delete it to start over"
            ) from error
        if header["identity"] != identity:
            raise RunError(
                f"the saved state {self.path} belongs to other settings; delete it to start over, or give "
                "the settings it was begun with"
            )
        return tensors, header["fields"]

    def save(self, identity: str, tensors: Mapping[str, Tensor], fields: Mapping[str, Any]) -> None:
        """Replace the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        header = json.dumps({"identity": identity, "fields": dict(fields)})
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        write_bytes_atomic(self.path, save(whole, {"state": header}))
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether `every` seconds have gone since the last save."""
        return time.monotonic() - self._last >= self.every

    def clear(self) -> None:
        """Delete the file, and those of its pieces."""
        self.path.unlink(missing_ok=True)
        if self._pieces.is_dir():  # with what a write that was killed has left there
            shutil.rmtree(self._pieces)

    def part(self, name: str) -> FileStore:
        """A file of this name in a folder beside this one."""
        return FileStore(self._pieces / f"{name}.safetensors", self.every)

    @property
    def _pieces(self) -> Path:
        return self.path.with_name(f"{self.path.name}-pieces")
