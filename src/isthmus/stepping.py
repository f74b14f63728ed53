"""The loop of every gradient procedure: steps, a history, a saved state, a progress bar.

A procedure is a pure function of its settings: whatever is random at step k is drawn from a seed named
after k. So it may be killed anywhere and resumed from the last saved state to the identical result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from isthmus.fanout import World
from isthmus.io.state import NoStore, Store
from isthmus.progress import Progress, Silent


class Procedure(Protocol):
    """A sequence of gradient steps.

    Attributes:
        name: shown beside the progress bar.
        steps: how many there are.
        per_epoch: how many make one pass over the training data.
    """

    name: str
    steps: int
    per_epoch: int

    def begin(self, start: int) -> AbstractContextManager[Callable[[int], float | None]]:
        """Open the procedure at a step: gives a function that takes step k and returns its loss.

        The function returns None, and changes nothing, when the procedure has ended before step k.
        """
        ...

    def tensors(self) -> dict[str, Tensor]:
        """The state between two steps."""
        ...

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put a saved state back, before `begin`."""
        ...


@dataclass(frozen=True, eq=False)
class Course:
    """How a procedure went.

    Attributes:
        taken: steps taken.
        finite: whether every loss was a finite number; the procedure stops at the first that is not.
        history: mean loss of each epoch, shape (epochs,), float64.
    """

    taken: int
    finite: bool
    history: Tensor


def take_steps(
    procedure: Procedure, identity: str, store: Store | None = None, progress: Progress | None = None
) -> Course:
    """Take all steps of a procedure, from its saved state if there is one, or as many as it wants.

    Args:
        procedure: what to do.
        identity: a digest of all that determines the result; a state saved under another is refused.
        store: where the state is kept.
        progress: shows the loss and the time left.
    """
    store, progress = store or NoStore(), progress or Silent()
    step, total, history = 0, 0.0, list[float]()
    if (saved := store.load(identity)) is not None:
        tensors, fields = saved
        procedure.restore(tensors)
        step, total = int(fields["step"]), float.fromhex(fields["total"])
        history = [float.fromhex(value) for value in fields["history"]]
    finite = True
    with (
        torch.random.fork_rng(),
        procedure.begin(step) as take,
        progress.bar(procedure.name, procedure.steps, step) as bar,
    ):
        while finite and step < procedure.steps:
            if (loss := take(step)) is None:
                break
            finite = math.isfinite(loss)
            step, total = step + 1, total + loss
            if step % procedure.per_epoch == 0 or step == procedure.steps:
                history.append(total / ((step - 1) % procedure.per_epoch + 1))
                total = 0.0
            bar(step, f"loss {loss:.4f}")
            if finite and store.due():
                store.save(identity, procedure.tensors(), _fields(step, total, history))
    if finite and step < procedure.steps and step % procedure.per_epoch:
        history.append(total / (step % procedure.per_epoch))
    return Course(step, finite, torch.tensor(history, dtype=torch.float64))


def share_of(batch: Any, world: World) -> Any:
    """This rank's share of a batch: every `size`-th example, from `rank` on.

    All shares have one size, so that the mean of their gradients is the gradient of their mean; up to
    `size` − 1 examples at the end of a batch are left out for that.
    """
    if world.size == 1:
        return batch

    def share(tensor: Tensor) -> Tensor:
        return tensor[: len(tensor) - len(tensor) % world.size][world.rank :: world.size]

    if isinstance(batch, Mapping):
        return {name: share(tensor) for name, tensor in batch.items()}
    return tuple(share(tensor) for tensor in batch)


def common_loss(loss: float, world: World) -> float:
    """The mean loss of all ranks, so that all of them stop at the same step."""
    return loss if world.size == 1 else float(world.mean(torch.tensor(loss)))


def _fields(step: int, total: float, history: list[float]) -> dict[str, Any]:
    """Numbers that must come back to the last bit, in hexadecimal."""
    return {"step": step, "total": total.hex(), "history": [value.hex() for value in history]}
