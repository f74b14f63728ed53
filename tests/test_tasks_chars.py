"""The character task: its windows, its model, its refusals."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

import isthmus
from isthmus.errors import DataError, SettingError
from isthmus.landscape import Landscape
from isthmus.tasks import chars
from isthmus.tasks.transformer import Transformer

TEXT = "".join("abcdefgh ij"[(3 * n * n + n // 7) % 11] for n in range(3000))


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "shakespeare" / "input.txt"
    path.parent.mkdir()
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_windows_predict_every_character_of_their_part_once(text):
    task = chars.transformer(text, context=10)
    for name, part in (("train", TEXT[:2700]), ("test", TEXT[2700:])):
        inputs, targets = task.split(name).data
        letters = sorted(set(TEXT))
        read = "".join(letters[code] for code in inputs.flatten().tolist())
        told = "".join(letters[code] for code in targets.flatten().tolist())
        assert read == part[: len(read)]
        assert told == part[1 : len(read) + 1]
        assert len(part) - len(read) <= 10


def test_a_folder_and_a_file_give_the_same_task(text):
    folder, file = chars.transformer(text.parent.parent), chars.transformer(text)
    assert folder.identity == file.identity
    assert folder.note == file.note


def test_the_default_text_comes_with_the_interpreter():
    task = chars.transformer()
    assert "Python's documentation topics" in task.note
    assert task.split("train").data[0].shape[1] == 64
    loss = Landscape(task, limit=64).evaluate([task.network.reference], "test").loss.mean()
    tokens = task.network.reference["head.bias"].numel()
    assert abs(float(loss) - math.log(tokens)) < 0.2  # an untrained model knows nothing


def test_a_position_sees_no_later_character():
    generator = torch.Generator().manual_seed(0)
    model = Transformer(tokens=7, context=9, width=12, heads=3, layers=2).eval()
    tokens = torch.randint(7, (2, 9), generator=generator)
    changed = tokens.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 7
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    assert_close(before[:, :5], after[:, :5])
    assert bool((before[:, 5:] - after[:, 5:]).abs().amax((0, 2)).gt(0).all())


def test_training_beats_the_frequencies_of_characters(text):
    task = chars.transformer(text, context=16, width=16, heads=2, layers=1)
    counts = torch.tensor([TEXT.count(letter) for letter in sorted(set(TEXT))], dtype=torch.float64)
    share = counts / counts.sum()
    unigram = -float((share * share.log()).sum())
    weights = isthmus.train(task, seed=1, steps=120)
    assert float(Landscape(task).evaluate([weights], "test").loss.mean()) < unigram - 0.1


def test_refusals(tmp_path, text):
    with pytest.raises(DataError, match=r"there is no text .*shakespeare/input\.txt"):
        chars.transformer(tmp_path / "shakespeare")
    short = tmp_path / "short.txt"
    short.write_text("to be or not to be")
    with pytest.raises(DataError, match="has 18 characters: expected at least 1,300"):
        chars.transformer(short)
    broken = tmp_path / "broken.txt"
    broken.write_bytes(b"\xff\xfe\xfa" * 1000)
    with pytest.raises(DataError, match="no UTF-8"):
        chars.transformer(broken)
    with pytest.raises(SettingError, match="at least 1 character"):
        chars.transformer(text, context=0)
    with pytest.raises(SettingError, match="multiple of the heads"):
        Transformer(tokens=3, width=10, heads=4)
