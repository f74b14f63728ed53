"""The MNIST tasks, and how a set of the MNIST family is read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from isthmus.errors import DataError
from isthmus.landscape import Recipe, Task
from isthmus.tasks.formats import data_folder, find_file, read_idx, require_labels
from isthmus.tasks.models import MLP, LeNet5

_FOLDERS = ("mnist", "MNIST/raw", ".")
_MEAN, _STD = 0.1307, 0.3081
_SPLITS = {"train": "train", "test": "t10k"}
_SIDE = 28


def mlp(data: str | os.PathLike[str] | None = None, width: int = 512) -> Task:
    """The perceptron 784-width-width-width-10 with ReLU on MNIST, the network of Git Re-Basin's first table.

    The recipe is adapted from theirs: the same Adam rate and batch, 20 epochs down a cosine.

    Args:
        data: the data folder; by default the one that ISTHMUS_DATA names.
        width: units in each of the three hidden layers.

    Source: Ainsworth, Hayase, Srinivasa 2023 (arXiv 2209.04836), section 5.
    """
    train, test, note = read_family("MNIST", _FOLDERS, data, _MEAN, _STD)
    recipe = Recipe(epochs=20, batch=500, optimizer="adamw", rate=1e-3, weight_decay=0.0)
    return Task(
        model=partial(MLP, (_SIDE * _SIDE, width, width, width, 10)),
        train=train,
        test=test,
        recipe=recipe,
        name="mnist-mlp",
        note=note,
    )


def lenet(data: str | os.PathLike[str] | None = None) -> Task:
    """LeNet-5 (convolutions, ReLU, maximum pooling) on MNIST.

    It is not the perceptron 784-300-100-10 that Frankle and others call LeNet; the recipe is the one they
    publish for that: 24,000 steps of 60 examples, Adam at 1.2e-3.

    Args:
        data: the data folder; by default the one that ISTHMUS_DATA names.

    Source: Frankle, Dziugaite, Roy, Carbin 2020 (arXiv 1912.05671), table 1, for the recipe.
    """
    train, test, note = read_family("MNIST", _FOLDERS, data, _MEAN, _STD)
    recipe = Recipe(
        epochs=24, batch=60, optimizer="adamw", rate=1.2e-3, weight_decay=0.0, schedule="constant"
    )
    return Task(model=LeNet5, train=train, test=test, recipe=recipe, name="mnist-lenet", note=note)


def read_family(
    title: str, folders: Sequence[str], data: str | os.PathLike[str] | None, mean: float, std: float
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], str]:
    """Both splits of a set in MNIST's format, and a sentence on their sizes.

    Args:
        title: the set's name, for errors.
        folders: where to look below the data folder, in order.
        data: the data folder; by default the one that ISTHMUS_DATA names.
        mean: subtracted from the pixels after they are brought to [0, 1].
        std: divides them then.

    Returns:
        (images, labels) of the training and of the test split; images have shape (examples, 1, 28, 28).

    Raises:
        DataError: files are missing, damaged, or do not fit together.
    """
    names = [_file(prefix, kind) for prefix in _SPLITS.values() for kind in ("images", "labels")]
    wanted = (
        f"{title} needs the four IDX files {', '.join(names)} (gzipped, with .gz at the end, or not) in "
        + " or ".join(f"DATA/{folder}" if folder != "." else "DATA itself" for folder in folders)
    )
    root = data_folder(data, wanted)
    places = [root / folder for folder in folders]
    # One folder for all four, so that two sets with equal file names never mix.
    place = next((p for p in places if any(find_file([p], name) for name in names)), None)
    missing = [name for name in names if place is None or find_file([place], name) is None]
    if place is None or missing:
        raise DataError(f"{', '.join(missing)} not found below {root}: {wanted}")
    train, test = (_read_split(place, prefix, mean, std) for prefix in _SPLITS.values())
    note = f"{title}: {len(train[0]):,} images to train on, {len(test[0]):,} held out"
    return train, test, note


def _file(prefix: str, kind: str) -> str:
    return f"{prefix}-{kind}-idx{3 if kind == 'images' else 1}-ubyte"


def _read_split(place: Path, prefix: str, mean: float, std: float) -> tuple[Tensor, Tensor]:
    pixels, classes = (find_file([place], _file(prefix, kind)) for kind in ("images", "labels"))
    assert pixels is not None
    assert classes is not None
    images, labels = read_idx(pixels, 3), require_labels(read_idx(classes, 1), classes)
    if images.shape[1:] != (_SIDE, _SIDE):
        raise DataError(f"{pixels} has images of shape {list(images.shape[1:])}: expected [{_SIDE}, {_SIDE}]")
    if len(images) != len(labels) or not len(images):
        raise DataError(
            f"{pixels} has {len(images):,} images and {classes} has {len(labels):,} labels: expected equal "
            "numbers above 0; fetch both anew"
        )
    return images.float().div_(255).sub_(mean).div_(std).unsqueeze(1), labels
