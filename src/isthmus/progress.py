"""Progress of long work: a bar on a terminal, silence elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol


class Bar(Protocol):
    """Tells one procedure's progress."""

    def __call__(self, done: int, note: str = "") -> None:
        """Report that `done` steps are complete, with a short note such as the present loss."""


class Progress(Protocol):
    """Shows the progress of procedures, one bar each."""

    def bar(self, name: str, total: int, start: int = 0) -> AbstractContextManager[Bar]:
        """A bar for a procedure of `total` steps that begins (or resumes) at step `start`."""
        ...


@dataclass(frozen=True)
class Silent:
    """Shows nothing."""

    @contextmanager
    def bar(self, name: str, total: int, start: int = 0) -> Iterator[Bar]:
        """A bar that shows nothing."""
        yield _ignore


@dataclass(frozen=True)
class Terminal:
    """A Rich bar on standard error: name, bar, steps, note, time left; nothing is left behind."""

    @contextmanager
    def bar(self, name: str, total: int, start: int = 0) -> Iterator[Bar]:
        """A bar with the note and the time left."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Rich

        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"), TimeRemainingColumn(),
        )  # fmt: skip
        with Rich(*columns, console=Console(stderr=True), transient=True, refresh_per_second=5) as rich:
            task = rich.add_task(name, total=total, completed=start, note="")

            def update(done: int, note: str = "") -> None:
                rich.update(task, completed=done, note=note)

            yield update


@dataclass(frozen=True)
class Titled:
    """Puts a title before the names of another's bars."""

    progress: Progress
    title: str

    def bar(self, name: str, total: int, start: int = 0) -> AbstractContextManager[Bar]:
        """The other's bar, its name with the title."""
        return self.progress.bar(f"{self.title}, {name}", total, start)


def default_progress(quiet: bool = False) -> Progress:
    """A bar if standard error is a terminal and `quiet` is not asked for; silence otherwise."""
    return Terminal() if sys.stderr.isatty() and not quiet else Silent()


def _ignore(done: int, note: str = "") -> None:
    """Take no notice."""
