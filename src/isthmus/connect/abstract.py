"""What every connector returns, and how a path is kept on disk."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from torch import Tensor

from isthmus.errors import CheckpointError, SettingError
from isthmus.io.checkpoints import load_weights, save_weights
from isthmus.io.state import Store
from isthmus.landscape import AbstractLandscape
from isthmus.path import AbstractPath, Bezier, Chain, Segment
from isthmus.progress import Progress
from isthmus.weights import Weights

PATH_KINDS: dict[str, type[Bezier] | type[Chain]] = {"bezier": Bezier, "chain": Chain}
"""Paths with any number of controls, by their kind."""


class Outcome(Enum):
    """How a connector ended."""

    COMPLETED = "the schedule was completed"
    DIVERGED = "the loss became infinite or not a number, a smaller rate may help"


@dataclass(frozen=True, eq=False)
class Connection:
    """A path that a connector found.

    Attributes:
        path: the fitted path.
        outcome: how the procedure ended.
        history: the mean training loss over each epoch of the fit, shape (epochs,), at random points of the
            path in training mode: a sign of convergence, no measurement of the path.
        steps: gradient steps taken.
        settings: every setting of the fit, by name.
    """

    path: AbstractPath
    outcome: Outcome
    history: Tensor
    steps: int
    settings: dict[str, str | int | float]

    @property
    def length(self) -> float:
        """The arc length of the path."""
        return self.path.length

    @property
    def endpoint_distance(self) -> float:
        """The straight distance between its ends."""
        return self.path.endpoint_distance


class AbstractConnector(abc.ABC):
    """A method that joins networks by a low-loss path, as a frozen object that holds its settings.

    Every connector keeps the ends to the last bit, gives the same path for the same seed, resumes from a
    store to the identical result, and reports how it ended as an outcome.
    """

    @abc.abstractmethod
    def connect(
        self,
        points: Sequence[Weights],
        landscape: AbstractLandscape,
        *,
        store: Store | None = None,
        progress: Progress | None = None,
    ) -> Connection:
        """Find a path from the first of these points to the last (and through, or past, the others).

        Args:
            points: weights of one layout; two ends at least.
            landscape: gives losses and gradients.
            store: where the state is kept for resuming; nowhere by default.
            progress: shows how far it is; silent by default.
        """


def save_controls(path: AbstractPath, folder: Path) -> None:
    """Write every control of a path as a checkpoint: `0.safetensors` and so on."""
    for index, control in enumerate(path.controls):
        save_weights(control, folder / f"{index}.safetensors", {"kind": path.kind})


def load_controls(folder: Path, kind: str) -> AbstractPath:
    """Read back a path from its controls.

    Raises:
        CheckpointError: the folder holds no controls, or one cannot be read.
    """
    files = sorted(folder.glob("[0-9]*.safetensors"), key=lambda file: int(file.stem))
    if not files:
        raise CheckpointError(f"{folder} holds no controls: expected 0.safetensors, 1.safetensors, …")
    controls = tuple(load_weights(file) for file in files)
    if kind == Segment.kind:
        return Segment(*controls)
    if kind not in PATH_KINDS:
        raise SettingError(f"expected a path kind ({', '.join(PATH_KINDS)}), got {kind!r}")
    return PATH_KINDS[kind](controls)
