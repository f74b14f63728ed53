"""`isthmus report`: the page again, from a run's records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from isthmus.cli.options import AsJson, Device, Figures, Force, Out, Quiet, Seed
from isthmus.cli.session import guarded, new_file
from isthmus.cli.study import print_study


@guarded
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, of connect or simplex, say.")],
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
    from isthmus.report.export import save_figures
    from isthmus.report.html import write_report
    from isthmus.report.studies import read_study

    record = run / "records" / "study.json"
    if not run.is_dir():
        raise RunError(f"{run} is no folder; expected a run folder")
    if not record.exists():
        raise RunError(f"{run} holds no finished study; finish it by giving its command again")
    study = read_study(record)
    path = new_file(out, "", force) if out else run / "report.html"
    write_report(study, path)
    if figures:
        save_figures(study, path.parent / "figures")
    print_study(study, path, quiet, as_json)
