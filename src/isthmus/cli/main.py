"""The `isthmus` command.

Nothing heavy is imported here or at the top of a command's file: help must come at once.
"""

from __future__ import annotations

import os

import typer

from isthmus.cli.align import align
from isthmus.cli.align_many import align_many
from isthmus.cli.barrier import barrier
from isthmus.cli.connect import connect
from isthmus.cli.curve import curve
from isthmus.cli.curves import curves
from isthmus.cli.demo import demo
from isthmus.cli.ensemble import ensemble
from isthmus.cli.fuse import fuse
from isthmus.cli.levels import levels
from isthmus.cli.minima import minima
from isthmus.cli.plane import plane
from isthmus.cli.report import report
from isthmus.cli.simplex import simplex
from isthmus.cli.symmetry import symmetry
from isthmus.cli.train import train

app = typer.Typer(
    help="Find, measure and use the low-loss paths between trained neural networks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_COMMANDS = (
    demo, connect, train, barrier, align, align_many, fuse, curve, curves, levels, minima, simplex, plane,
    ensemble, symmetry, report,
)  # fmt: skip
for _command in _COMMANDS:
    app.command()(_command)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"isthmus {version('isthmus')}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", help="Print the version and leave.", callback=_version, is_eager=True
    ),
) -> None:
    """Find, measure and use the low-loss paths between trained neural networks."""


def main() -> None:
    """Run the command line.

    OpenMP's threads spin while they wait, by default. On a machine that does anything else beside, small
    networks then train ten times slower; so they are asked to sleep, unless the user has chosen.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    app()
