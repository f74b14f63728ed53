"""The character task: a small transformer that predicts a text's next character."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from isthmus.errors import DataError, SettingError
from isthmus.landscape import Recipe, Task
from isthmus.tasks.transformer import Transformer

_FILE = "shakespeare/input.txt"
_HELD_OUT = 0.1
_LEAST = 20


def transformer(
    data: str | os.PathLike[str] | None = None,
    *,
    context: int = 64,
    width: int = 128,
    heads: int = 4,
    layers: int = 2,
    epochs: float = 4,
) -> Task:
    """A character-level language model: `Transformer` on windows of a text.

    The first nine tenths of the text are for training, the last tenth is held out. Each is cut into windows
    that do not overlap, so that every character but the first is predicted once in a pass; the loss is in
    nats a character.

    Args:
        data: a text file (`.txt`, UTF-8), or a data folder with `shakespeare/input.txt`; by default the text
            of Python's own documentation topics, which comes with the interpreter (and differs from one
            version of Python to the next).
        context: characters a window.
        width: channels of the residual stream.
        heads: heads a layer.
        layers: transformer blocks.
        epochs: passes over the training windows.

    Raises:
        DataError: the text is missing, is no UTF-8, or is too short for twenty windows.
    """
    if context < 1:
        raise SettingError(f"the context must be at least 1 character, got {context}")
    text, source = _text(data)
    codes, vocabulary = _encoded(text)
    border = round(len(codes) * (1 - _HELD_OUT))
    train, test = _windows(codes[:border], context), _windows(codes[border:], context)
    if len(test[0]) * 10 < _LEAST:
        raise DataError(
            f"{source} has {len(text):,} characters: expected at least {_LEAST * (context + 1):,}, for "
            f"{_LEAST} windows of {context}"
        )
    recipe = Recipe(epochs=epochs, batch=32, optimizer="adamw", rate=4e-3, weight_decay=0.1, warmup=0.05)
    note = (
        f"{source}: {len(train[0]):,} windows of {context} characters to train on, {len(test[0]):,} held "
        f"out, {len(vocabulary)} different characters"
    )
    return Task(
        model=partial(Transformer, len(vocabulary), context, width, heads, layers),
        train=train,
        test=test,
        recipe=recipe,
        name="chars-transformer",
        note=note,
    )


def _text(data: str | os.PathLike[str] | None) -> tuple[str, str]:
    """The text, and what it is."""
    if data is None:
        from pydoc_data.topics import topics

        return "\n\n".join(topics[name] for name in sorted(topics)), "Python's documentation topics"
    path = Path(data).expanduser()
    if path.is_dir():
        path = path / _FILE
    if not path.is_file():
        raise DataError(
            f"there is no text {path}: pass a text file, or a data folder with {_FILE}, or nothing for the "
            "text of Python's documentation topics"
        )
    try:
        return path.read_text(encoding="utf-8"), f"{path.parent.name}/{path.name}"
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 text: {error}") from error


def _encoded(text: str) -> tuple[Tensor, str]:
    """The characters as indices into the sorted list of those that occur."""
    vocabulary = "".join(sorted(set(text)))
    index = {character: number for number, character in enumerate(vocabulary)}
    return torch.tensor([index[character] for character in text], dtype=torch.int64), vocabulary


def _windows(codes: Tensor, context: int) -> tuple[Tensor, Tensor]:
    """Windows of the text and the characters that follow, each of shape (windows, context)."""
    count = max((len(codes) - 1) // context, 0)
    return (
        codes[: count * context].view(count, context).clone(),
        codes[1 : count * context + 1].view(count, context).clone(),
    )
