"""What every connector returns, and how a path is kept on disk."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import torch
from torch import Tensor

from isthmus.errors import CheckpointError, SettingError
from isthmus.fanout import Fanout
from isthmus.io.checkpoints import read_checkpoint, save_weights
from isthmus.io.state import Store
from isthmus.landscape import AbstractLandscape, Evaluation
from isthmus.path import AbstractPath, Bezier, Chain, Segment, Simplex
from isthmus.progress import Progress
from isthmus.weights import Weights

PATH_KINDS: dict[str, type[Bezier] | type[Chain]] = {"bezier": Bezier, "chain": Chain}
"""Paths with any number of controls, by their kind."""


class Outcome(Enum):
    """How a connector ended."""

    COMPLETED = "the schedule was completed"
    CONNECTED_AT_LEVEL = "a path below the level was found, at the tested positions"
    NOT_FOUND_WITHIN_DEPTH = "no path below the level was found within the depth of the search"
    DIVERGED = "the loss became infinite or not a number, a smaller rate may help"


@dataclass(frozen=True)
class Saddle:
    """The highest point of a path among the positions that were evaluated.

    Attributes:
        loss: its mean loss.
        error: its error rate, in [0, 1].
        t: where it is, a position in [0, 1].
        split: the data that it was evaluated on: "train" where the path was fitted.
        examples: how many of them.
        points: how many positions were evaluated.

    Limits: an upper bound of the lowest pass between the ends, as far as the positions see the path; a
    maximum over noisy means is biased upward.
    """

    loss: float
    error: float
    t: float
    split: str
    examples: int
    points: int


def highest(path: AbstractPath, found: Evaluation, t: Tensor) -> Saddle:
    """The highest of some evaluated positions; what is not a number counts as highest.

    Args:
        path: what was evaluated.
        found: the evaluation of `path.at(t)`.
        t: the positions, shape (points,).
    """
    loss = found.mean_loss.nan_to_num(nan=math.inf, posinf=math.inf)
    top = int(loss.argmax())
    return Saddle(
        float(loss[top]), float(found.mean_error[top]), float(t[top]), found.split, found.examples, len(t)
    )


def find_saddle(
    path: AbstractPath,
    landscape: AbstractLandscape,
    t: Tensor | int = 61,
    split: str = "train",
    fanout: Fanout | None = None,
    progress: Progress | None = None,
) -> Saddle:
    """The highest point of a path.

    Args:
        path: of one coordinate.
        landscape: where to evaluate.
        t: positions in [0, 1], or how many even ones.
        split: "train" (what a path is fitted to) or "test".
        fanout: spreads the positions.
        progress: shows how many are done.

    Cost: one pass over the split a position.
    """
    where = torch.linspace(0, 1, t, dtype=torch.float64) if isinstance(t, int) else t
    return highest(path, landscape.evaluate(path.at(where), split, fanout, progress), where)


@dataclass(frozen=True, eq=False)
class Connection:
    """A path, or a region, that a connector found.

    Attributes:
        path: the fitted path.
        outcome: how the procedure ended.
        history: a training loss for each epoch of the fit, shape (epochs,), in training mode: of a curve the
            mean at random points, of a band at its highest pivot; of a string the highest of its pieces,
            round by round. A sign of convergence, no measurement of the path.
        steps: gradient steps taken.
        settings: every setting of the fit, by name.
        saddle: the highest point of the path that the procedure itself evaluated; None where it evaluates
            none, as the fit of a curve: `find_saddle` measures it.
    """

    path: AbstractPath
    outcome: Outcome
    history: Tensor
    steps: int
    settings: dict[str, str | int | float]
    saddle: Saddle | None = None

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


def load_controls(folder: Path, kind: str | None = None) -> AbstractPath:
    """Read back a path from its controls.

    Args:
        folder: that `save_controls` wrote.
        kind: of the path; by default the one that the files themselves name.

    Raises:
        CheckpointError: the folder holds no controls, or one cannot be read, or none names the kind.
    """
    files = sorted(folder.glob("[0-9]*.safetensors"), key=lambda file: int(file.stem))
    if not files:
        raise CheckpointError(f"{folder} holds no controls: expected 0.safetensors, 1.safetensors, …")
    found = [read_checkpoint(file) for file in files]
    controls = tuple(each.weights for each in found)
    kind = kind or found[0].metadata.get("kind")
    if kind is None:
        raise CheckpointError(f"{files[0]} does not say what kind of path it is a control of; give the kind")
    if kind == Segment.kind:
        return Segment(*controls)
    if kind == Simplex.kind:
        return Simplex(controls)
    if kind not in PATH_KINDS:
        raise SettingError(f"expected a path kind ({', '.join(PATH_KINDS)}), got {kind!r}")
    return PATH_KINDS[kind](controls)
