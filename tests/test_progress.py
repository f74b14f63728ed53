"""Bars tell what is done, and nothing is shown where nobody looks."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from isthmus import Bezier, Landscape, Segment, Weights, fit_curve, profile
from isthmus.progress import Bar, Silent, Terminal, Titled, default_progress


class Recorder:
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.bars: dict[str, tuple[int, int, list[tuple[int, str]]]] = {}

    @contextmanager
    def bar(self, name: str, total: int, start: int = 0) -> Iterator[Bar]:
        told: list[tuple[int, str]] = []
        self.bars[name] = (total, start, told)
        yield lambda done, note="": told.append((done, note))


def test_fits_and_profiles_report_each_step(task) -> None:
    a, b = (Weights.from_module(task.build(seed)) for seed in (1, 2))
    seen = Recorder()
    fit_curve(Bezier.between(a, b), Landscape(task), steps=5, progress=Titled(seen, "x"))
    total, start, told = seen.bars["x, fitting a bezier"]
    assert (total, start, [done for done, _ in told]) == (5, 0, [1, 2, 3, 4, 5])
    assert all(note.startswith("loss ") for _, note in told)
    profile(Segment(a, b), Landscape(task), 7, progress=seen)
    assert [done for done, _ in seen.bars["points on test"][2]] == [1, 2, 3, 4, 5, 6, 7]


def test_silence_unless_a_terminal_looks(monkeypatch, capsys) -> None:
    assert isinstance(default_progress(), Silent)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert isinstance(default_progress(), Terminal)
    assert isinstance(default_progress(quiet=True), Silent)
    with Silent().bar("x", 3) as bar:
        bar(1, "note")
    assert capsys.readouterr() == ("", "")


def test_the_terminal_bar_shows_loss_and_leaves_nothing_on_stdout(capsys) -> None:
    with Terminal().bar("fitting", 10, start=2) as bar:
        bar(3, f"loss {torch.tensor(0.25):.2f}")
    out, _ = capsys.readouterr()
    assert out == ""
