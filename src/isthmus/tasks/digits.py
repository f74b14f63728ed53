"""The digits tasks: scikit-learn's embedded 8 × 8 images, no download, trained in seconds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from isthmus.landscape import Recipe, Task
from isthmus.seeds import seeded
from isthmus.tasks.augment import add_noise
from isthmus.tasks.models import MLP, ConvNet

_TRAIN = 1197
_MEAN, _STD = 0.3053, 0.3760


def mlp(width: int = 256) -> Task:
    """The perceptron 64-width-width-width-width-10 with ReLU, without batch norm, on the digits.

    Deep enough that two trainings are separated by a wall, wide enough that a permutation takes it away;
    noise on the training images keeps what is left small on held-out images too.

    Args:
        width: units in each of the four hidden layers.
    """
    recipe = Recipe(epochs=60, batch=64, rate=0.1, weight_decay=1e-3, warmup=0.05, augment=add_noise)
    return _task("digits-mlp", partial(MLP, (64, *(4 * [width]), 10)), recipe)


def cnn(width: int = 32) -> Task:
    """Three convolutions with batch norm and a linear layer on the digits.

    Args:
        width: channels of the first convolution; the others have twice as many.
    """
    recipe = Recipe(epochs=20, batch=64, rate=0.1, weight_decay=5e-4, warmup=0.05, augment=add_noise)
    return _task("digits-cnn", partial(ConvNet, 8, width), recipe)


def _task(name: str, model: Callable[[], nn.Module], recipe: Recipe) -> Task:
    train, test = _splits()
    note = f"scikit-learn's digits: {len(train[0]):,} images to train on, {len(test[0]):,} held out"
    return Task(model=model, train=train, test=test, recipe=recipe, name=name, note=note)


def _splits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The fixed random split: 1,197 images to train on, 600 held out."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32).div_(16).sub_(_MEAN).div_(_STD).unsqueeze(1)
    labels = torch.tensor(bunch.target, dtype=torch.int64)
    order = torch.randperm(len(labels), generator=seeded(0, "digits", "split"))
    train, test = order[:_TRAIN], order[_TRAIN:]
    return (images[train], labels[train]), (images[test], labels[test])
