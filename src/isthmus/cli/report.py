"""`isthmus report`: the page again, from a run's records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from isthmus.cli.options import AsJson, Device, Figures, Force, Out, Quiet, Seed
from isthmus.cli.session import emit, escaped, guarded, new_file


@guarded
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder of demo, connect or curve.")],
    figures: Figures = False,
    out: Out = None,
    force: Force = False,
    device: Device = "cpu",
    seed: Seed = 0,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Build the report of a finished run again from its records; nothing is computed anew.

    --out FILE.html writes it elsewhere. --device and --seed are accepted, and change nothing here.
    """
    from isthmus.errors import RunError
    from isthmus.experiments.records import PairStudy
    from isthmus.io.records import read_record
    from isthmus.report.export import save_figures
    from isthmus.report.html import write_report
    from isthmus.report.terminal import study_table, verdict_sentence

    record = run / "records" / "study.json"
    if not run.is_dir():
        raise RunError(f"{run} is no folder; expected the run folder of demo, connect or curve")
    if not record.exists():
        raise RunError(f"{run} holds no finished study; finish it by giving its command again")
    study = read_record(record, PairStudy)
    path = new_file(out, "", force) if out else run / "report.html"
    write_report(study, path)
    if figures:
        save_figures(study, path.parent / "figures")
    shown = (study_table(study), escaped(verdict_sentence(study)), f"report: {escaped(str(path))}")
    emit(study, as_json, quiet, *shown)
