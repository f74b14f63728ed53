"""The Fashion-MNIST task."""

from __future__ import annotations

import os
from functools import partial

from isthmus.landscape import Recipe, Task
from isthmus.tasks.mnist import read_family
from isthmus.tasks.models import ConvNet

_FOLDERS = ("fashion-mnist", "FashionMNIST/raw", ".")
_MEAN, _STD = 0.2860, 0.3530


def cnn(data: str | os.PathLike[str] | None = None, width: int = 16) -> Task:
    """Three convolutions with batch norm and a linear layer on Fashion-MNIST; the recipe is our own.

    Args:
        data: the data folder; by default the one that ISTHMUS_DATA names.
        width: channels of the first convolution; the others have twice as many.
    """
    train, test, note = read_family("Fashion-MNIST", _FOLDERS, data, _MEAN, _STD)
    recipe = Recipe(epochs=10, batch=128, rate=0.1, weight_decay=5e-4, warmup=0.05)
    return Task(
        model=partial(ConvNet, 28, width),
        train=train,
        test=test,
        recipe=recipe,
        name="fashion-cnn",
        note=note,
    )
