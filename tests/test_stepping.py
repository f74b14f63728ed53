"""The loop of every gradient procedure: histories of whole, early ended and resumed courses."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from conftest import Killed, Killer
from isthmus.io.state import FileStore
from isthmus.stepping import take_steps


class Counting:
    """Step k has the loss k; it wants so many steps, of ten that it may take, four to an epoch."""

    name, steps, per_epoch = "counting", 10, 4

    def __init__(self, wanted: int) -> None:
        self.wanted, self.taken = wanted, torch.zeros(1)

    @contextmanager
    def begin(self, start: int) -> Iterator[Callable[[int], float | None]]:
        def take(step: int) -> float | None:
            if step == self.wanted:
                return None
            self.taken += 1
            return float(step)

        yield take

    def tensors(self) -> dict[str, Tensor]:
        return {"taken": self.taken}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.taken.copy_(tensors["taken"])


@pytest.mark.parametrize(
    ("wanted", "history"), [(99, [1.5, 5.5, 8.5]), (8, [1.5, 5.5]), (7, [1.5, 5.0]), (0, [])]
)
def test_the_history_is_the_mean_of_each_epoch(wanted: int, history: list[float], tmp_path) -> None:
    """Means of four losses, or of as many as a last epoch has; a kill before the end changes nothing."""
    procedure = Counting(wanted)
    course = take_steps(procedure, "mine")
    assert course.history.tolist() == history
    assert course.taken == int(procedure.taken) == min(wanted, 10)
    assert course.finite
    if wanted > 5:
        path = tmp_path / "state.safetensors"
        with pytest.raises(Killed):
            take_steps(Counting(wanted), "mine", Killer(path, after=6))
        again = Counting(wanted)
        resumed = take_steps(again, "mine", FileStore(path))
        assert resumed.history.tolist() == history
        assert resumed.taken == int(again.taken) == min(wanted, 10)
