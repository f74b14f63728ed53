"""Fixtures that several test files use."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from isthmus import Recipe, Task, Weights
from isthmus.io.state import FileStore

torch.set_num_threads(1)


class Convolutional(nn.Module):
    """A small network with batch norm and dropout."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, padding=1)
        self.bn = nn.BatchNorm2d(width)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(width * 16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(torch.relu(self.bn(self.conv(x)))).flatten(1))


def blobs(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Three noisy blobs in eight dimensions."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(3, (count,), generator=generator)
    centres = torch.randn(3, 8, generator=torch.Generator().manual_seed(99)) * 1.5
    return centres[target] + torch.randn(count, 8, generator=generator), target


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


@pytest.fixture
def task() -> Task:
    """An MLP on blobs, trained in a blink."""
    recipe = Recipe(epochs=6, batch=32, rate=0.1, weight_decay=1e-4)
    return Task(model=mlp, train=blobs(256, 1), test=blobs(200, 2), recipe=recipe, name="blobs")


@pytest.fixture
def image_task() -> Task:
    """A network with batch norm and dropout on noise images."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(70, 1, 4, 4, generator=generator) + 2
    y = (x.mean(dim=(1, 2, 3)) > 2).long()
    return Task(model=Convolutional, train=(x, y), test=(x[:30], y[:30]), recipe=Recipe(epochs=2, batch=16))


class Killed(Exception):
    """What `Killer` raises."""


class Killer(FileStore):
    """A store that saves the state every so many steps, and then dies."""

    def __init__(self, path: Path, after: int, every: int = 1, asked: list[int] | None = None) -> None:
        super().__init__(path)
        self.asked, self.after, self.period = asked if asked is not None else [0], after, every

    def due(self) -> bool:
        self.asked[0] += 1
        if self.asked[0] == self.after:
            raise Killed
        return self.asked[0] % self.period == 0

    def part(self, name: str) -> "Killer":
        """A piece's store counts with it."""
        return Killer(super().part(name).path, self.after, self.period, self.asked)


def random_weights(layout_of: Weights, seed: int) -> Weights:
    """Random coordinates in the layout of some weights."""
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(layout_of.vector.shape, generator=generator, dtype=torch.float64)
    return Weights(layout_of.layout, vector.to(layout_of.vector.dtype))


@pytest.fixture
def data_folder() -> Path:
    """The optional folder of published data sets; tests that need it skip without."""
    folder = os.environ.get("ISTHMUS_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("needs published data sets: set ISTHMUS_DATA to their folder")
    return Path(folder)
