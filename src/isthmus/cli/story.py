"""What `demo`, `connect` and `curve` share: open a run, tell the pair's story, write the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from isthmus.cli.session import bars, command_line, emit, escaped, limit, open_checkpoint, open_task

if TYPE_CHECKING:
    from isthmus.experiments.pair import PairSettings
    from isthmus.experiments.records import PairStudy
    from isthmus.io.checkpoints import Checkpoint
    from isthmus.io.runs import Run
    from isthmus.landscape import Task
    from isthmus.symmetry import Symmetry


def tell(
    procedure: str,
    a: Path,
    b: Path,
    task: str,
    data: Path | None,
    out: Path | None,
    *,
    quiet: bool,
    as_json: bool,
    figures: bool,
    examples: int,
    **options: Any,
) -> None:
    """Study two checkpoint files in a run folder of their own, and print what came out."""
    from isthmus.experiments.pair import PairSettings, pair_identity
    from isthmus.identity import digest_of
    from isthmus.io.runs import Run

    settings = PairSettings(examples=limit(examples), **options)
    problem = open_task(task, data, settings.device)
    one, two = open_checkpoint(a, problem), open_checkpoint(b, problem)
    identity = pair_identity(problem, one, two, settings)
    folder = out or Path(f"isthmus-{procedure}-{slug(problem.name)}-{digest_of(identity)[:8]}")
    matched = (folder / "records" / "matching.json").exists()
    symmetry = symmetry_of(problem) if settings.align and not matched else None
    if not (folder / "run.json").exists():
        require_level(problem, one, two, settings)
    run = Run.open(folder, procedure, identity)
    try:
        study = written(run, problem, one, two, settings, bars(quiet, as_json), figures, symmetry)
    finally:
        run.close()
    show(study, run, quiet, as_json)


def symmetry_of(task: Task) -> Symmetry:
    """The symmetry of the task's model; one that cannot be aligned is refused before anything is written."""
    from isthmus.errors import SymmetryError
    from isthmus.symmetry import discover

    try:
        return discover(task.traceable, task.example)
    except SymmetryError as error:
        said = str(error).rstrip(".")
        raise SymmetryError(f"{said}. To study the pair without alignment, add --no-align.") from error


def require_level(task: Task, a: Checkpoint, b: Checkpoint, settings: PairSettings) -> None:
    """Refuse a string's level below an end's own loss before anything is written.

    Cost: one pass over the training examples for each end, where a level is given.
    """
    if settings.level is None:
        return
    import torch

    from isthmus.connect.string import require_ends_below
    from isthmus.landscape import Landscape
    from isthmus.path import Segment

    landscape = Landscape(
        task, settings.device, settings.batchnorm, settings.recalibration, limit=settings.examples
    )
    ends = Segment(a.weights, b.weights).at(torch.tensor([0.0, 1.0]))
    require_ends_below(landscape.evaluate(ends, "train").mean_loss.tolist(), settings.level)


def slug(name: str) -> str:
    """A name as one part of a path."""
    return (
        "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name).strip(".-")
        or "task"
    )


def written(
    run: Run,
    task: Task,
    a: Checkpoint,
    b: Checkpoint,
    settings: Any,
    progress: Any,
    figures: bool,
    symmetry: Symmetry | None = None,
) -> PairStudy:
    """The study of a pair, with its report (and figures) in the run's folder."""
    from isthmus.experiments.pair import study_pair
    from isthmus.report.export import save_figures
    from isthmus.report.html import write_report

    study = study_pair(
        task, a, b, settings, run=run, command=command_line(), progress=progress, symmetry=symmetry
    )
    write_report(study, run.path("report.html"))
    if figures:
        save_figures(study, run.path("figures"))
    return study


def show(study: PairStudy, run: Run, quiet: bool, as_json: bool) -> None:
    """Print the study: tables and the verdict, or JSON."""
    from isthmus.report.sentences import saddle_sentences, verdict_sentence
    from isthmus.report.terminal import study_table

    where = f"report: {escaped(str(run.path('report.html')))}"
    told = [escaped(text) for text in (saddle_sentences(study), study.note) if text]
    emit(study, as_json, quiet, study_table(study), escaped(verdict_sentence(study)), *told, where)
