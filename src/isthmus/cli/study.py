"""What every command with a run folder does alike: compute its study there, write the page, print it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from isthmus.cli.session import emit, escaped

if TYPE_CHECKING:
    from isthmus.io.runs import Run

Study = TypeVar("Study")


def study_in_run(
    folder: Path,
    procedure: str,
    identity: Mapping[str, object],
    kind: type[Study],
    compute: Callable[[Run], Study],
    *,
    figures: bool,
    quiet: bool,
    as_json: bool,
) -> Study:
    """The study of this identity: read if the folder holds it, else computed; its page and figures; printed.

    Args:
        folder: of the run; made if it is missing.
        procedure: the command's name, which the folder remembers.
        identity: all that determines the results: see `Run.open`.
        kind: the study's class.
        compute: makes the study; what it asks of the run by name is kept and found again.
        figures: whether to write every figure as PNG and SVG.
        quiet: print nothing.
        as_json: print the study as JSON instead of tables.
    """
    from isthmus.io.runs import Run
    from isthmus.report.export import save_figures
    from isthmus.report.html import write_report

    run = Run.open(folder, procedure, identity)
    try:
        study = run.record("study", kind, lambda: compute(run))
        write_report(study, run.path("report.html"))
        if figures:
            save_figures(study, run.path("figures"))
    finally:
        run.close()
    print_study(study, run.path("report.html"), quiet, as_json)
    return study


def print_study(study: object, report: Path, quiet: bool, as_json: bool) -> None:
    """Print a study of any kind: its tables and its sentence, or JSON."""
    from isthmus.report.studies import page_of
    from isthmus.report.terminal import drawn

    page = page_of(study)
    shown = (*(drawn(table) for table in page.tables), escaped(page.sentence))
    emit(study, as_json, quiet, *shown, f"report: {escaped(str(report))}")
