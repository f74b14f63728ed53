"""The CIFAR-10 tasks: the residual networks of He et al. and VGG-16."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from isthmus.errors import DataError
from isthmus.landscape import Recipe, Task
from isthmus.tasks.augment import crop_and_flip
from isthmus.tasks.formats import data_folder, find_file, read_cifar10
from isthmus.tasks.models import VGG16, ResNet

_FOLDERS = ("cifar-10-batches-bin", ".")
_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
_TEST = "test_batch.bin"
# ImageNet's statistics, not CIFAR's: what the published checkpoints were trained with.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_WANTED = (
    f"CIFAR-10 needs the files of its binary version, {_TEST} and one or more of {_TRAIN[0]} to {_TRAIN[-1]} "
    "(gzipped, with .gz at the end, or not), in DATA/cifar-10-batches-bin or DATA itself"
)
# He et al., as Frankle et al. run it: 63,000 steps of 128 out of 50,000 images, a tenth of the rate after
# half and again after three quarters.
_RECIPE = Recipe(epochs=161, batch=128, rate=0.1, weight_decay=1e-4, schedule="step", augment=crop_and_flip)


def resnet20(data: str | os.PathLike[str] | None = None, width: int = 16) -> Task:
    """ResNet-20 with option A shortcuts on CIFAR-10, trained as published.

    Args:
        data: the data folder; by default the one that ISTHMUS_DATA names.
        width: channels of the first stage.

    Source: He et al. 2015 (arXiv 1512.03385), section 4.2; Frankle et al. 2020 (arXiv 1912.05671), table 1.
    """
    return _task("cifar10-resnet20", partial(ResNet, 20, width), data)


def resnet56(data: str | os.PathLike[str] | None = None, width: int = 16) -> Task:
    """ResNet-56 with option A shortcuts on CIFAR-10, trained as published for ResNet-20.

    Args:
        data: the data folder; by default the one that ISTHMUS_DATA names.
        width: channels of the first stage.

    Source: He et al. 2015 (arXiv 1512.03385), section 4.2.
    """
    return _task("cifar10-resnet56", partial(ResNet, 56, width), data)


def vgg16(data: str | os.PathLike[str] | None = None, width: int = 64) -> Task:
    """VGG-16 with batch norm and one linear layer on CIFAR-10, trained with the recipe of the ResNets.

    The images are normalised as for the ResNets.

    Args:
        data: the data folder; by default the one that ISTHMUS_DATA names.
        width: channels of the first convolution; the others keep the published proportions to it.

    Source: Frankle et al. 2020 (arXiv 1912.05671), table 1.
    """
    return _task("cifar10-vgg16", partial(VGG16, width), data)


def _task(name: str, model: Callable[[], nn.Module], data: str | os.PathLike[str] | None) -> Task:
    root = data_folder(data, _WANTED)
    folders = [root / folder for folder in _FOLDERS]
    found = [path for path in (find_file(folders, file) for file in _TRAIN) if path is not None]
    held_out = find_file(folders, _TEST)
    if held_out is None or not found:
        lost = _TEST if held_out is None else f"{_TRAIN[0]} to {_TRAIN[-1]}"
        raise DataError(f"{lost} not found below {root}: {_WANTED}")
    train, test = _read(found), _read([held_out])
    note = (
        f"CIFAR-10: {len(train[0]):,} images to train on ({len(found)} of the {len(_TRAIN)} training "
        f"batches are there), {len(test[0]):,} held out"
    )
    return Task(model=model, train=train, test=test, recipe=_RECIPE, name=name, note=note)


def _read(paths: Sequence[Path]) -> tuple[Tensor, Tensor]:
    """Normalised images and labels of these files, one after the other."""
    parts = [read_cifar10(path) for path in paths]
    images = torch.cat([part[0] for part in parts]).float().div_(255)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (_MEAN, _STD))
    return images.sub_(mean).div_(std), torch.cat([part[1] for part in parts])
