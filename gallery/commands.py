"""Sections of docs/gallery/paths.md that one command each makes."""

from __future__ import annotations

import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gallery.models import FOLDER
from isthmus.report.drawing import NamedFigure
from isthmus.report.markdown import markdown_table
from isthmus.report.studies import page_of, read_study


@dataclass(frozen=True)
class Shown:
    """One command, and what is shown of its study.

    Attributes:
        name: of the entry, its run folder and its figures.
        title: of the section.
        task: what the networks were trained on.
        words: the command and its options, without checkpoints, task and output.
        seeds: of the networks, as `gallery.models` keeps them.
        figures: names of the study's figures, in the order of the page.
        tables: how many of the study's tables are shown, from the first.
        family: of the networks; the task's name by default.
        said: what is to be said of it beside.
    """

    name: str
    title: str
    task: str
    words: tuple[str, ...]
    seeds: tuple[int, ...]
    figures: tuple[str, ...]
    tables: int = 1
    family: str = ""
    said: str = ""

    @property
    def folder(self) -> Path:
        """Its run folder."""
        return FOLDER / "paths" / self.name

    @property
    def command(self) -> list[str]:
        """The command as a user gives it."""
        first, *options = self.words
        networks = [f"{FOLDER}/{self.family or self.task}-seed{seed}.safetensors" for seed in self.seeds]
        return ["isthmus", first, *networks, "--task", self.task, *options, "--out", str(self.folder)]


_TEN = tuple(range(1, 11))
_MNIST = "mnist-mlp-512"
SHOWN = (
    Shown(
        "curves-digits", "Aligned curves, digits", "digits-mlp", ("curves",), (1, 2, 3),
        ("curves-paired", "curves-profiles"),
    ),
    Shown(
        "curves-mnist", "Aligned curves, MNIST", "mnist-mlp",
        ("curves", "--curve-steps", "2400", "--examples", "5000"), (1, 2, 3), ("curves-paired",),
        family=_MNIST,
    ),
    Shown(
        "levels-digits", "Length against level, digits", "digits-mlp", ("levels",), (1, 2),
        ("length-against-level",),
    ),
    Shown(
        "minima", "Ten minima, digits", "digits-mlp", ("minima", "--edges", "9"), _TEN,
        ("disconnectivity",), tables=9,
    ),
    Shown(
        "simplex-digits", "A simplex around one network, digits", "digits-mlp", ("simplex",), (1,),
        ("inside-error",), tables=9,
    ),
    Shown(
        "simplex-dimension", "How many vertices? digits", "digits-mlp", ("simplex", "--vertices", "12"), (1,),
        ("growth-volume", "growth-loss"), tables=9,
    ),
    Shown(
        "complex-digits", "A complex that joins three networks, digits", "digits-mlp", ("simplex",),
        (1, 2, 3), ("profile-loss",), tables=9,
    ),
    Shown(
        "simplex-mnist", "A simplex around one network, MNIST", "mnist-mlp", ("simplex", "--plane", "0"),
        (1,), ("inside-error",), tables=9, family=_MNIST,
    ),
    Shown(
        "plane-digits-mlp", "The plane of three perceptrons, digits", "digits-mlp", ("plane",), (1, 2, 3),
        ("plane-loss-held-out", "plane-objective-train"),
    ),
    Shown(
        "plane-digits-cnn", "The plane of three convolutional networks, digits", "digits-cnn", ("plane",),
        (1, 2, 3), ("plane-loss-held-out", "plane-error-held-out"),
    ),
    Shown(
        "ensemble-digits", "An ensemble of three networks, digits", "digits-mlp", ("ensemble",), (1, 2, 3),
        ("ensemble-loss",),
    ),
    Shown(
        "ensemble-mnist", "An ensemble of three networks, MNIST", "mnist-mlp", ("ensemble",), (1, 2, 3),
        ("ensemble-loss", "reliability"), family=_MNIST,
    ),
    Shown(
        "fge-digits", "Fast geometric ensembling, digits", "digits-mlp", ("ensemble", "--fge"), (1,),
        ("ensemble-loss",),
    ),
)  # fmt: skip


def computed(shown: Shown) -> Any:
    """The study of an entry, computed by its command if it is not there."""
    subprocess.run([sys.executable, "-m", *shown.command, "--quiet"], check=True)
    return read_study(shown.folder / "records" / "study.json")


def drawn(shown: Shown, study: object) -> list[NamedFigure]:
    """The figures of an entry, under names of their own."""
    found = {each.name: each for each in page_of(study).figures()}
    if missing := [name for name in shown.figures if name not in found]:
        raise SystemExit(f"{shown.name} has no figure {missing[0]}: expected one of {', '.join(found)}")
    return [
        NamedFigure(f"{shown.name}-{name}", found[name].figure, found[name].width) for name in shown.figures
    ]


def section(shown: Shown, study: object) -> str:
    """An entry as Markdown: the command, what it says, its tables and figures."""
    page = page_of(study)
    parts = [f"## {shown.title}", f"```sh\n{shlex.join(shown.command)} --figures\n```", page.sentence]
    parts += [shown.said] if shown.said else []
    for table in page.tables[: shown.tables]:
        parts += [f"**{table.caption}**" if table.caption else "", markdown_table(table)]
    parts += [f"![{shown.title}: {name}](../images/{shown.name}-{name}.svg)" for name in shown.figures]
    return "\n\n".join(part for part in parts if part)
