"""`isthmus simplex` as a user meets it: the study, its page, and what is refused."""

import json
import math
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from isthmus import load_weights, save_weights
from isthmus.cli.simplex import simplex
from isthmus.experiments import simplexes
from isthmus.experiments.simplexes import compared, first_dimensions
from isthmus.experiments.simplexrecords import Inside, SimplexStudy, Stage, estimated_dimension
from isthmus.experiments.train import train
from isthmus.io.records import read_record, records_equal
from isthmus.landscape import Evaluation, Landscape
from isthmus.path.simplex import SimplicialComplex
from isthmus.report import studies
from isthmus.report.formats import plain_loss
from isthmus.report.html import render_report
from isthmus.report.simplexes import (
    dimension_sentence,
    region_sentence,
    simplex_figures,
    simplex_page,
)
from isthmus.report.simplextables import ensemble_rows, inside_rows, route_rows
from isthmus.scores import Score
from isthmus.tasks.userfile import load_task
from test_cli import TASK, files

app = typer.Typer()
app.command()(simplex)
FAST = [
    "--steps", "10", "--inside", "6", "--members", "3", "--points", "5", "--plane", "3", "--plane-examples",
    "40", "--examples", "100",
]  # fmt: skip


@app.command()
def other() -> None:
    """A second command, so that the first keeps its name."""


@pytest.fixture(autouse=True)
def page(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page of this kind of study, whether or not it is in the table already."""
    monkeypatch.setitem(studies.PAGES, SimplexStudy, simplex_page)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task file and three trained checkpoints."""
    place = tmp_path_factory.mktemp("user")
    (place / "task.py").write_text(TASK)
    problem = load_task(f"{place}/task.py")
    for seed in (1, 2, 3):
        save_weights(train(problem, seed), place / f"{seed}.safetensors")
    return place


def run(*arguments: object):
    return CliRunner().invoke(app, ["simplex", *(str(a) for a in arguments)])


def refused(*arguments: object) -> str:
    done = run(*arguments)
    text = " ".join(done.output.split())
    assert done.exit_code == 2, f"{done.exit_code}: {text} {done.exception!r}"
    assert "Traceback" not in text
    return text


def inputs(folder: Path, count: int) -> list[Path]:
    return [folder / f"{seed}.safetensors" for seed in range(1, count + 1)]


KINDS = {
    "simplex": (1, ["--vertices", "3"], 3, 2),
    "complex": (3, ["--connectors", "2"], 5, 2),
    "simplexes": (2, ["--separate", "--vertices", "3"], 6, 2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_region_is_grown_measured_and_told(folder: Path, tmp_path: Path, kind: str) -> None:
    count, options, vertices, dimensions = KINDS[kind]
    out, task = tmp_path / "run", ["--task", f"{folder}/task.py"]
    done = run(*inputs(folder, count), *task, *options, "--out", out, "--json", *FAST)
    assert done.exit_code == 0, f"{done.output} {done.exception!r}"
    study = json.loads(done.stdout)
    assert study["kind"] == kind
    assert [stage["dimension"] for stage in study["stages"]] == list(range(1, dimensions + 1))
    written = sorted((out / "vertices").iterdir(), key=lambda path: int(path.stem))
    assert [path.name for path in written] == [f"{k}.safetensors" for k in range(vertices)]
    models = [load_weights(path) for path in written]
    for path in inputs(folder, count):
        assert any(load_weights(path).equal(model) for model in models)
    _agrees(out, models, study, load_task(f"{folder}/task.py"), inputs(folder, count))
    record = read_record(out / "records" / "study.json", SimplexStudy)
    page = (out / "report.html").read_text()
    for drawn in ("inside-error", "growth-volume", "growth-loss", "plane-loss", "fit-history"):
        assert f'"{drawn}"' in page
    assert ('"profile-loss"' in page) == (kind == "complex")
    assert "What lies inside" in page
    assert len(route_rows(record).rows) == (4 if kind == "complex" else 0)
    assert set(record.ensembles) == ({"points inside", "given networks"} if count > 1 else {"points inside"})


def _agrees(out: Path, models: list, study: dict, problem, given: list[Path]) -> None:
    """The figures are those of the vertices' files, computed by hand."""
    region = SimplicialComplex(tuple(models), tuple(tuple(s) for s in study["simplexes"]))
    last = study["stages"][-1]
    assert last["log_volume"] == pytest.approx(region.log_volume, rel=1e-5)
    assert study["length"] == pytest.approx(region.length, rel=1e-5)
    assert last["height"] == pytest.approx(
        min(float(region.face(k).heights[-1]) for k in range(len(region.simplexes))), rel=1e-5
    )
    land = Landscape(problem, limit=100)
    for inside in last["inside"]:
        split = inside["score"]["split"]
        drawn = land.evaluate(region.sample(6, 0), split)
        ends = land.evaluate([load_weights(path) for path in given], split)
        assert inside["loss"] == pytest.approx(drawn.mean_loss.tolist(), rel=1e-5)
        assert inside["score"]["error"] == pytest.approx(float(drawn.mean_error.mean()), abs=1e-9)
        gap = float(drawn.mean_error.mean() - ends.mean_error.mean())
        assert inside["gap"] == pytest.approx(gap, abs=1e-9)
        assert inside["gap_low"] <= inside["gap"] <= inside["gap_high"]


def test_a_run_that_was_stopped_goes_on_to_the_same_records(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*inputs(folder, 1), "--task", f"{folder}/task.py", "--vertices", "3", *FAST, "--quiet"]
    arguments += ["--plane", "0", "--members", "0"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert run(*arguments, "--out", whole).exit_code == 0
    real, calls = simplexes.compared, [0]

    def dying(*given: Evaluation) -> Inside:
        calls[0] += 1
        if calls[0] == 3:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(simplexes, "compared", dying)
    assert run(*arguments, "--out", stopped).exit_code == 130
    assert not (stopped / "records" / "study.json").exists()
    monkeypatch.setattr(simplexes, "compared", real)
    assert run(*arguments, "--out", stopped).exit_code == 0
    one, two = (read_record(out / "records" / "study.json", SimplexStudy) for out in (whole, stopped))
    assert all(records_equal(x, y) for x, y in zip(one.stages, two.stages, strict=True))
    before = files(stopped)
    assert run(*arguments, "--out", stopped).exit_code == 0
    assert files(stopped) == before, "a finished run is not computed twice"
    for name in ("0", "1", "2"):
        assert (whole / f"vertices/{name}.safetensors").read_bytes() == (
            stopped / f"vertices/{name}.safetensors"
        ).read_bytes()


def test_the_terminal_tells_the_inside_and_the_growth(folder: Path, tmp_path: Path) -> None:
    done = run(*inputs(folder, 1), "--task", f"{folder}/task.py", "--out", tmp_path / "run", *FAST)
    assert done.exit_code == 0, done.output
    text = " ".join(done.output.split())
    for told in (
        "held-out", "above the given", "The growth", "inside the simplex of 4 vertices", "report:",
    ):  # fmt: skip
        assert told in text
    assert max(len(line.rstrip()) for line in done.output.splitlines() if "─" in line) <= 80


def test_a_growth_that_diverges_is_told_on_the_page(folder: Path, tmp_path: Path) -> None:
    arguments = [*inputs(folder, 1), "--task", f"{folder}/task.py", "--rate", "1e30", *FAST]
    done = run(*arguments, "--out", tmp_path / "run", "--json")
    assert done.exit_code == 0, f"{done.output} {done.exception!r}"
    study = json.loads(done.stdout)
    assert study["stages"] == []
    assert "a smaller rate may help" in study["note"]
    record = read_record(tmp_path / "run/records/study.json", SimplexStudy)
    assert "was not grown to the end" in region_sentence(record)
    assert "was not grown to the end" in render_report(record)
    assert [figure.name for figure in simplex_figures(record)] == ["fit-history"]


def test_bad_input_is_refused_in_a_sentence_and_writes_nothing(folder: Path, tmp_path: Path) -> None:
    one, two, _ = inputs(folder, 3)
    task, out = ["--task", f"{folder}/task.py"], ["--out", tmp_path / "run"]
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(one.read_bytes())
    for expected, arguments in (
        ("vertices must be at least 2, got 0", [one, "--vertices", "0"]),
        ("vertices must be at least 2, got 1", [one, "--vertices", "1"]),
        ("connectors must be at least 1", [one, two, "--connectors", "0"]),
        ("weight of the log-volume must be 0 or more, got -0.1", [one, "--weight", "-0.1"]),
        ("are the same network", [one, two, copy]),
        ("the number of vertices is for a simplex around one checkpoint", [one, two, "--vertices", "4"]),
        ("connectors join several checkpoints", [one, "--connectors", "2"]),
        ("samples must be at least 1", [one, "--samples", "0"]),
        ("give epochs or steps", [one, "--epochs", "1", "--steps", "3"]),
        ("rate must be a number above 0", [one, "--rate", "-1"]),
        ("inside must be at least 2", [one, "--inside", "0"]),
        ("a plane needs at least 3 nodes", [one, "--plane", "2"]),
        ("between 0 and 1, got 2", [one, "--tolerance", "2"]),
        ("missing.safetensors", [tmp_path / "missing.safetensors"]),
    ):
        assert expected in refused(*arguments, *task, *out)
    assert "another architecture" in refused(one, "--task", f"{folder}/task.py:wide", *out)
    assert not (tmp_path / "run").exists()


# -- what the records say ----------------------------------------------------------------------------


def inside(gap: float, split: str = "train") -> Inside:
    found = Score(split, 10, 0.1, 0.05, 0.2, 0.1, 0.0, 0.2, 0.95, "none")
    return Inside(found, torch.tensor([0.1]), torch.tensor([0.1]), gap, gap - 0.01, gap + 0.01)


def stage(dimension: int, gap: float = 0.0, height: float = 1.0, held_out: float = 0.0) -> Stage:
    both = (inside(gap), inside(held_out, "test"))
    return Stage(dimension, 0.0, 1.0, height, 1.0, both)


def test_the_dimension_is_that_of_the_last_stage_before_one_fails() -> None:
    low = [stage(1), stage(2), stage(3)]
    assert estimated_dimension(low, 0.005).value == 3
    assert estimated_dimension(low, 0.005).ended == ""
    high = estimated_dimension([*low, stage(4, gap=0.006), stage(5)], 0.005)
    assert (high.value, "rises above the tolerance on train data" in high.ended) == (3, True)
    held_out = estimated_dimension([stage(1), stage(2, held_out=0.1)], 0.005)
    assert (held_out.value, "held-out data" in held_out.ended) == (1, True)
    flat = estimated_dimension([stage(1, height=2.0), stage(2, height=0.19)], 0.005)
    assert (flat.value, "almost in the plane" in flat.ended) == (1, True)
    assert estimated_dimension([stage(1, gap=math.nan)], 0.005).value == 0
    assert estimated_dimension([], 0.005).value == 0


def test_points_are_compared_with_the_given_example_by_example() -> None:
    within = Evaluation(
        torch.tensor([[1.0, 3.0], [3.0, 5.0]]), torch.tensor([[0.0, 1.0], [1.0, 1.0]]), "test"
    )
    given = Evaluation(torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 1.0]]), "test")
    found = compared(within, given)
    assert found.score.loss == 3.0
    assert found.loss.tolist() == [2.0, 4.0]
    assert found.gap == 0.25
    margin = 1.959964 * torch.tensor([0.5, 0.0]).std().item() / math.sqrt(2)
    assert found.gap_high == pytest.approx(0.25 + margin)


def test_the_first_dimensions_of_a_region_are_its_first_vertices(folder: Path) -> None:
    models = tuple(load_weights(path) for path in inputs(folder, 3))
    models = (*models, models[0] + models[1], models[1] * 3.0)
    region = SimplicialComplex(models, ((0, 3, 4), (1, 3, 4), (2, 3, 4)))
    first = first_dimensions(region, 1)
    assert first.simplexes == ((0, 3), (1, 3), (2, 3))
    assert len(first.controls) == 4
    apart = first_dimensions(SimplicialComplex(models, ((0, 2, 4), (1, 3))), 1)
    assert apart.simplexes == ((0, 2), (1, 3))


def test_sentences_keep_to_what_is_known(folder: Path, tmp_path: Path) -> None:
    done = run(
        *inputs(folder, 2), "--separate", "--vertices", "2", "--task", f"{folder}/task.py", "--out",
        tmp_path / "run", "--quiet", *FAST,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert not done.output
    study = read_record(tmp_path / "run/records/study.json", SimplexStudy)
    assert "2 simplexes of 2 vertices" in region_sentence(study)
    told = dimension_sentence(study)
    assert "at least 1" in told or "estimated as 0" in told
    assert len(ensemble_rows(study).rows) == 2 * 4 * 2
    assert "n average" in simplex_page(study).headline
    for row, split in zip(inside_rows(study).rows, ("test", "train"), strict=True):
        loss = study.stages[-1].on(split).loss
        assert float(loss.min()) < float(loss.max())
        assert [row[k].text for k in (1, 2)] == [
            plain_loss(float(value)) for value in (loss.mean(), loss.max())
        ]


@pytest.mark.browser
def test_the_figures_are_written(folder: Path, tmp_path: Path) -> None:
    done = run(
        *inputs(folder, 1), "--task", f"{folder}/task.py", "--vertices", "3", "--out", tmp_path / "run",
        "--figures", "--quiet", *FAST,
    )  # fmt: skip
    assert done.exit_code == 0, f"{done.output} {done.exception!r}"
    assert (tmp_path / "run/figures/growth-loss.png").stat().st_size > 1000
    assert (tmp_path / "run/figures/inside-error.svg").exists()
