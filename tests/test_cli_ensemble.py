"""`isthmus ensemble` as a user meets it, and the page it writes."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from conftest import Killed
from isthmus import load_weights, save_weights
from isthmus.cli import ensemble as command
from isthmus.cli.ensemble import ensemble
from isthmus.connect import fit_curve
from isthmus.connect.abstract import save_controls
from isthmus.ensembles import AVERAGE, BEST, ENSEMBLE, SINGLE, Estimate
from isthmus.experiments import ensembling
from isthmus.experiments.ensembling import EnsembleStudy
from isthmus.experiments.train import train
from isthmus.io.records import read_record, records_equal
from isthmus.landscape import Landscape
from isthmus.path import Bezier
from isthmus.report import studies
from isthmus.report.ensembles import _difference, ensemble_page, gain_sentence
from isthmus.tasks.userfile import load_task
from test_cli import TASK, files

OWN = """
def far(output, target):
    return (output[:, 0] - target).square()

line = Task(
    model=lambda: nn.Linear(8, 1), train=(task.train[0], task.train[0].sum(1)),
    test=(task.test[0], task.test[0].sum(1)), loss=far, error=lambda o, t: (far(o, t) > 1).float(),
    name="line",
)
"""
app = typer.Typer()
app.command()(ensemble)


@app.command()
def other() -> None:
    """A second command, so that the first keeps its name."""


@pytest.fixture(autouse=True)
def page(monkeypatch) -> None:
    monkeypatch.setitem(studies.PAGES, EnsembleStudy, ensemble_page)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task file, three trained checkpoints and a run folder with a fitted curve."""
    place = tmp_path_factory.mktemp("user")
    (place / "task.py").write_text(TASK + OWN)
    problem = load_task(f"{place}/task.py")
    models = [train(problem, seed) for seed in (1, 2, 3)]
    for seed, model in enumerate(models, start=1):
        save_weights(model, place / f"{seed}.safetensors")
    curve = fit_curve(Bezier.between(*models[:2]), Landscape(problem), steps=30)
    save_controls(curve.path, place / "run" / "curve")
    return place


def run(*arguments: object):
    return CliRunner().invoke(app, ["ensemble", *(str(a) for a in arguments)])


def refused(*arguments: object) -> str:
    done = run(*arguments)
    text = " ".join(done.output.split())
    assert done.exit_code == 2, f"{done.exit_code}: {text} {done.exception!r}"
    assert "Traceback" not in text
    return text


def models(folder: Path) -> list[Path]:
    return [folder / f"{seed}.safetensors" for seed in (1, 2, 3)]


def test_models(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = run(*models(folder), "--task", f"{folder}/task.py", "--out", out, "--json")
    assert done.exit_code == 0, done.output
    study = json.loads(done.stdout)
    assert study["ensemble"]["names"] == ["1", "2", "3"]
    assert [origin["name"] for origin in study["origins"]] == ["1", "2", "3"]
    found = read_record(out / "records" / "study.json", EnsembleStudy)
    problem = load_task(f"{folder}/task.py")
    weights = [load_weights(path) for path in models(folder)]
    each = Landscape(problem, batchnorm="keep").evaluate(weights).mean_loss
    for name, loss in zip("123", each, strict=True):
        assert found.ensemble.quality(name).loss.value == float(loss)
    page = (out / "report.html").read_text()
    assert gain_sentence(found, "test")[:60] in page.replace("\u00a0", " ")
    assert "reliability" in page
    before = {path: path.read_bytes() for path in out.rglob("*.json")}
    again = run(*models(folder), "--task", f"{folder}/task.py", "--out", out, "--json")
    assert again.stdout == done.stdout
    assert before == {path: path.read_bytes() for path in out.rglob("*.json")}


def test_the_tables_say_what_was_found(folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = run(*models(folder), "--task", f"{folder}/task.py", "--out", tmp_path / "o")
    assert done.exit_code == 0, done.output
    text = " ".join(done.stdout.split())
    for told in ("The ensemble beside its members", "best single, ", "paired", "On 200 held-out examples"):
        assert told in text
    assert "95 % intervals, paired" in text
    quiet = run(*models(folder), "--task", f"{folder}/task.py", "--out", tmp_path / "o", "--quiet")
    assert quiet.stdout == ""


@pytest.mark.parametrize("given", ["run", "run/curve"])
def test_points_of_a_fitted_path(folder: Path, tmp_path: Path, given: str) -> None:
    out = tmp_path / "out"
    arguments = ("--path", folder / given, "--task", f"{folder}/task.py", "--points", 3, "--out", out)
    done = run(*arguments, "--spacing", "arc", "--json")
    assert done.exit_code == 0, done.output
    study = json.loads(done.stdout)
    assert len(study["ensemble"]["t"]) == 3
    assert study["about"] == "3 points of a Bézier curve"
    assert len(study["origins"]) == 3
    assert (out / "report.html").exists()


def test_snapshots(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [
        folder / "1.safetensors",
        "--fge",
        "--cycles",
        3,
        "--period",
        6,
        "--task",
        f"{folder}/task.py",
    ]
    done = run(*arguments, "--out", out, "--json")
    assert done.exit_code == 0, done.output
    study = json.loads(done.stdout)
    assert study["cycles"]["steps"] == [3, 9, 15]
    assert len(study["cycles"]["rates"]) == 15
    assert study["cycles"]["fit"]["settings"]["high"] == pytest.approx(0.05)
    names = {"average.safetensors", *(f"snapshot-{k}.safetensors" for k in (1, 2, 3))}
    assert {each for each in files(out) if each.endswith(".safetensors") and "/" not in each} == names
    assert not (out / "state").exists()
    snapshots = [load_weights(out / f"snapshot-{k}.safetensors") for k in (1, 2, 3)]
    mean = sum(w.vector for w in snapshots) / 3
    torch.testing.assert_close(load_weights(out / "average.safetensors").vector, mean)


def test_a_kill_between_two_pieces_loses_nothing(folder: Path, tmp_path: Path, monkeypatch) -> None:
    arguments = [
        folder / "1.safetensors",
        "--fge",
        "--cycles",
        2,
        "--period",
        4,
        "--task",
        f"{folder}/task.py",
    ]
    assert run(*arguments, "--out", tmp_path / "whole", "-q").exit_code == 0

    real = ensembling.ensemble

    def killed(members: object, *more: object, **options: object) -> object:
        if "names" not in options:  # the trial on a few examples, before anything is written
            return real(members, *more, **options)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(ensembling, "ensemble", killed)
        assert isinstance(run(*arguments, "--out", tmp_path / "out", "-q").exception, Killed)
    assert (tmp_path / "out" / "snapshot-2.safetensors").exists()
    with monkeypatch.context() as patch:
        patch.setattr(ensembling, "train_cyclical", killed)
        assert run(*arguments, "--out", tmp_path / "out", "-q").exit_code == 0, "the snapshots are kept"
    one, two = (
        read_record(tmp_path / name / "records" / "study.json", EnsembleStudy) for name in ("whole", "out")
    )
    assert records_equal(one.ensemble, two.ensemble)


def test_a_regression(folder: Path, tmp_path: Path) -> None:
    problem = load_task(f"{folder}/task.py:line")
    paths = [tmp_path / f"{seed}.safetensors" for seed in (1, 2)]
    for seed, path in enumerate(paths):
        save_weights(train(problem, seed, steps=3), path)
    out = tmp_path / "out"
    arguments = [*paths, "--task", f"{folder}/task.py:line", "--out", out]
    assert "--average" in refused(*arguments) or "averaged=" in refused(*arguments)
    assert not out.exists(), "refused before anything is written"
    done = run(*arguments, "--average", "outputs")
    assert done.exit_code == 0, done.output
    assert "calibration" not in done.stdout
    assert "reliability" not in (out / "report.html").read_text().split("<main")[-1][:20000]


def test_the_page_of_every_source(folder: Path, tmp_path: Path) -> None:
    task = f"{folder}/task.py"
    run(
        folder / "1.safetensors",
        "--fge",
        "--cycles",
        2,
        "--period",
        4,
        "--task",
        task,
        "--out",
        tmp_path / "f",
    )
    run("--path", folder / "run", "--task", task, "--out", tmp_path / "p", "--examples", 50)
    names = {}
    for each in ("f", "p"):
        study = read_record(tmp_path / each / "records" / "study.json", EnsembleStudy)
        page = ensemble_page(study)
        names[each] = [figure.name for figure in page.figures()]
        assert len(page.cards) == 4
        sections = [section.name for section in page.sections]
        assert ("cycles" in sections) == (each == "f")
        told = " ".join([page.headline, page.sentence, page.aside])
        assert "nan" not in told
        for name in (ENSEMBLE, AVERAGE, BEST, SINGLE):
            assert any(card.name == name for card in page.cards)
    assert names["p"] == [
        "ensemble-error", "ensemble-loss", "ensemble-calibration", "reliability", "confidence",
        "members-error", "members-loss",
    ]  # fmt: skip
    assert names["f"] == [*names["p"], "rates", "training"]
    assert "50" in gain_sentence(study, "test")


def test_refusals(folder: Path, tmp_path: Path) -> None:
    task, first = f"{folder}/task.py", folder / "1.safetensors"
    out = tmp_path / "out"
    more = ("--task", task, "--out", out)
    assert "expected two checkpoints or more, got 1" in refused(first, *more)
    assert "expected two checkpoints or more, got 0" in refused(*more)
    assert "not both" in refused(first, "--path", folder / "run", *more)
    assert "expected one checkpoint, got 2" in refused(first, first, "--fge", *more)
    assert "is not a folder" in refused("--path", first, *more)
    assert "holds no controls of a path" in refused("--path", tmp_path, *more)
    two = tmp_path / "two"
    for name in ("curve", "aligned-curve"):
        shutil.copytree(folder / "run" / "curve", two / name)
    assert "holds 2 paths: give " in refused("--path", two, *more)
    assert "the spacing 'uniform' or 'arc', got 'even'" in refused(
        "--path", folder / "run", "--spacing", "even", *more
    )
    assert "at least 1 point, got 0" in refused("--path", folder / "run", "--points", 0, *more)
    second = folder / "2.safetensors"
    assert "are the same network" in refused(first, second, first, *more)
    assert "--cycles and --period would change nothing" in refused(
        first, second, "--cycles", 3, "--period", 4, *more
    )
    assert "--points would change nothing: for use with --path" in refused(
        first, second, "--points", 3, *more
    )
    assert "recalibration must be at least 1" in refused(first, second, "--recalibration", 0, *more)
    assert "0 (all) or more, got -1" in refused(first, first, "--examples", -1, *more)
    assert "at least 1 cycle, got 0" in refused(first, "--fge", "--cycles", 0, *more)
    assert "an even number of steps" in refused(first, "--fge", "--period", 3, *more)
    assert "expected to average 'probabilities' or 'outputs'" in refused(
        first, first, "--average", "x", *more
    )
    assert "policy" in refused(first, first, "--batchnorm", "x", *more)
    assert "do not fit" in refused("--path", folder / "run", "--task", f"{task}:wide", "--out", out)
    assert not out.exists(), "nothing is half-written"


def test_names_that_are_alike(folder: Path) -> None:
    assert command._names([folder / "a/1.pt", folder / "b/1.pt"]) == ["1-1", "2-1"]


def test_a_difference_of_nothing_has_no_direction() -> None:
    assert _difference("error", Estimate(0.0, 0.0, 0.0)) == "its error is the same"
    told = _difference("error", Estimate(1e-18, -0.015, 0.015))
    assert told == "its error is the same [−1.50, 1.50], which these examples do not decide"
