"""The names of the ready-made tasks."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from types import MappingProxyType

from isthmus.errors import TaskError
from isthmus.landscape import Task
from isthmus.tasks import chars, cifar10, digits, fashion, mnist

TASKS: Mapping[str, Callable[[str | os.PathLike[str] | None], Task]] = MappingProxyType(
    {
        "digits-mlp": lambda _: digits.mlp(),
        "digits-cnn": lambda _: digits.cnn(),
        "mnist-mlp": mnist.mlp,
        "mnist-lenet": mnist.lenet,
        "fashion-cnn": fashion.cnn,
        "cifar10-resnet20": cifar10.resnet20,
        "cifar10-resnet56": cifar10.resnet56,
        "cifar10-vgg16": cifar10.vgg16,
        "chars-transformer": chars.transformer,
    }
)
"""Task names, and what builds each from a data folder (None: the one that ISTHMUS_DATA names)."""


def task_named(name: str, data: str | os.PathLike[str] | None = None) -> Task:
    """A ready-made task.

    Args:
        name: one of `TASKS`.
        data: the data folder, for the tasks that need one; by default the one that ISTHMUS_DATA names.

    Raises:
        TaskError: there is no task of this name.
        DataError: its data is missing or damaged.

    Example:
        >>> task_named("digits-mlp").note
        "scikit-learn's digits: 1,197 images to train on, 600 held out"
    """
    if name not in TASKS:
        raise TaskError(f"there is no ready-made task {name!r}: expected one of {', '.join(TASKS)}")
    return TASKS[name](data)
