"""The options that commands share, each written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

TaskName = Annotated[
    str,
    typer.Option(
        "--task",
        "-t",
        metavar="NAME|FILE.py[:NAME]",
        help="A built-in task, or a Python file that defines one.",
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        help="Folder with the data sets of built-in tasks.", envvar="ISTHMUS_DATA", show_default=False
    ),
]
CheckpointA = Annotated[Path, typer.Argument(metavar="A", help="Checkpoint of the network that stays.")]
CheckpointB = Annotated[Path, typer.Argument(metavar="B", help="Checkpoint of the other network.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Where to write.", show_default=False)]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars, no tables.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the output file if it exists.")]
Points = Annotated[int, typer.Option(help="Positions of the even grid along a path.")]
Examples = Annotated[
    int, typer.Option(help="Examples of each split used along paths; 0 uses all. Ends always use all.")
]
BatchNorm = Annotated[
    str, typer.Option("--batchnorm", help="Statistics along paths: recalibrate, interpolate or keep.")
]
Recalibration = Annotated[
    int, typer.Option(help="Training examples that batch-norm statistics are measured on.")
]
Tolerance = Annotated[float, typer.Option(help="Error barrier below which two networks count as connected.")]
Method = Annotated[
    str, typer.Option(help="How units are matched: weight, activation, ste, learned, sinkhorn or anneal.")
]
Restarts = Annotated[int, typer.Option(help="Starts of weight matching; the best is kept.")]
Kind = Annotated[
    str,
    typer.Option(
        "--curve", "--kind", help="bezier, chain, neb (elastic band), string (string sampling), or none."
    ),
]
Bends = Annotated[int, typer.Option(help="Inner control points of a curve.")]
BendsOrPivots = Annotated[
    int | None,
    typer.Option(
        "--bends",
        help="Inner control points of a curve (default: 1); pivots that a band begins with.",
        show_default=False,
    ),
]
CurveSteps = Annotated[
    int | None,
    typer.Option(
        help="Gradient steps of a fit; of each bead of a string. (default: 1000 of a curve; a band's or "
        "string's own)",
        show_default=False,
    ),
]
Sampling = Annotated[
    str, typer.Option(help="Where a curve's fit draws positions: uniform (in t), or arc (in arc length).")
]
CurveRestarts = Annotated[
    int, typer.Option(help="Starts of a curve's fit, one straight, the others bent; the lowest is kept.")
]
Level = Annotated[
    float | None,
    typer.Option(
        help="Training loss that a string may not exceed. (default: from the ends' loss)", show_default=False
    ),
]
CurveEpochs = Annotated[
    float | None, typer.Option(help="Passes over the training data, instead of steps.", show_default=False)
]
CurveRate = Annotated[
    float | None,
    typer.Option(help="Peak rate of the fit. (default: 0.3 of the recipe's)", show_default=False),
]
PlaneNodes = Annotated[int, typer.Option("--plane", help="Nodes along a plane's longer side; 0 draws none.")]
PlaneExamples = Annotated[int, typer.Option(help="Held-out examples at each node of a plane.")]
Figures = Annotated[bool, typer.Option("--figures", help="Also write every figure as PNG and SVG.")]
