"""`isthmus plane` as a user meets it, and its page."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from isthmus import Weights, save_weights
from isthmus.cli.plane import plane
from isthmus.connect.abstract import save_controls
from isthmus.experiments.planes import PlaneStudy
from isthmus.experiments.train import train
from isthmus.io.records import read_record
from isthmus.path import Bezier
from isthmus.report import studies
from isthmus.report.formats import loss_interval, quantity
from isthmus.report.html import render_report
from isthmus.report.planestudy import plane_figures, plane_page
from isthmus.tasks.userfile import load_task
from test_cli import TASK, files

app = typer.Typer()
app.command()(plane)
FAST = ["--resolution", "7", "--examples", "60"]


@app.command()
def other() -> None:
    """A second command, so that the first keeps its name."""


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page of a plane, where pages are looked up."""
    monkeypatch.setitem(studies.PAGES, PlaneStudy, plane_page)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task file, four trained checkpoints, and a path off their plane."""
    place = tmp_path_factory.mktemp("user")
    (place / "task.py").write_text(TASK)
    problem = load_task(f"{place}/task.py")
    models = [train(problem, seed) for seed in (1, 2, 3, 4)]
    for seed, model in enumerate(models, start=1):
        save_weights(model, place / f"{seed}.safetensors")
    save_controls(Bezier((models[0], models[3], models[1])), place / "curve")
    return place


def run(*arguments: object):
    return CliRunner().invoke(app, ["plane", *(str(a) for a in arguments)])


def refused(*arguments: object) -> str:
    done = run(*arguments)
    text = " ".join(done.output.split())
    assert done.exit_code == 2, f"{done.exit_code}: {text} {done.exception!r}"
    assert "Traceback" not in text
    return text


def inputs(folder: Path, count: int = 3) -> list[Path]:
    return [folder / f"{seed}.safetensors" for seed in range(1, count + 1)]


def test_three_checkpoints_and_a_task_are_enough(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = run(*inputs(folder), "--task", f"{folder}/task.py", "--out", out, *FAST)
    assert done.exit_code == 0, done.output
    text = " ".join(done.output.split())
    for told in ("The models, as saved", "lowest node", "held-out", "train", "loss with weight decay"):
        assert told in text
    assert re.search(r"Over the plane through A, B and C the held-out loss runs from \S", text)
    study = read_record(out / "records" / "study.json", PlaneStudy)
    assert [end.name for end in study.models] == ["A", "B", "C"]
    assert [surface.split for surface in study.surfaces] == ["test", "train"]
    assert study.surface("train").examples == 60
    fitted = study.surface("train").loss
    low, high = (quantity("loss", float(value)) for value in (fitted.min(), fitted.max()))
    assert f"and that on train from {low} to {high} (60 examples)" in plane_page(study).sentence
    for card, end in zip(plane_page(study).cards, study.models, strict=False):
        held_out = next(score for score in end.scores if score.split == "test")
        assert card.detail == loss_interval(held_out.loss_low, held_out.loss_high)
    page = (out / "report.html").read_text(encoding="utf-8")
    for name in (
        "plane-loss-test", "plane-loss-train", "plane-error-test", "plane-objective-train",
        "relief-loss-test", "relief-error-train", "relief-objective-train",
    ):  # fmt: skip
        assert f'id="{name}"' in page
    assert not (out / "records" / "plane.state.safetensors").exists()


def test_further_models_and_a_curve_are_projected_and_told(folder: Path, tmp_path: Path) -> None:
    done = run(
        *inputs(folder, 4), "--task", f"{folder}/task.py", "--curve", folder / "curve", "--json",
        "--out", tmp_path / "run", *FAST,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    path, model = record["surfaces"][0]["projected"]
    assert (path["name"], path["kind"], model["name"], model["kind"]) == ("curve", "path", "D", "model")
    assert max(path["distance"]) > 0 == path["distance"][0]
    assert path["distance"][-1] == pytest.approx(0, abs=1e-4)
    assert model["distance"][0] > 0
    own = next(score for score in record["models"][3]["scores"] if score["split"] == "test")
    assert model["loss"] > 0
    assert own["examples"] == 200
    page = " ".join((tmp_path / "run" / "report.html").read_text(encoding="utf-8").split())
    assert "Drawn at their projections" in page


def test_a_run_folder_stands_for_the_path_in_it(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "curve", tmp_path / "of-curve" / "band")
    done = run(
        *inputs(folder), "--task", f"{folder}/task.py", "--curve", tmp_path / "of-curve", "--json",
        "--out", tmp_path / "run", *FAST,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert [each["name"] for each in json.loads(done.stdout)["surfaces"][0]["projected"]] == ["band"]
    shutil.copytree(folder / "curve", tmp_path / "of-curve" / "aligned-band")
    told = refused(
        *inputs(folder), "--task", f"{folder}/task.py", "--curve", tmp_path / "of-curve",
        "--out", tmp_path / "other",
    )  # fmt: skip
    assert "holds 2 paths: give" in told


def test_a_precision_says_what_was_evaluated(folder: Path, tmp_path: Path) -> None:
    arguments = [*inputs(folder), "--task", f"{folder}/task.py", "--resolution", 15, "--of", "error"]
    done = run(*arguments, "--precision", "0.2", "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    study = read_record(tmp_path / "run" / "records" / "study.json", PlaneStudy)
    surface = study.surface()
    assert surface.interpolated.of == "error"
    assert surface.evaluations < surface.nodes
    text = " ".join(done.output.split())
    assert f"{surface.evaluations} of {surface.nodes} nodes, the others interpolated" in text
    assert "held-out error runs from" in text
    assert "Nodes without a dot were not evaluated" in " ".join(render_report(study).split())
    names = [figure.name for figure in plane_figures(study)]
    assert names[0] == "plane-error-held-out"
    assert "plane-loss-train-relief" in names
    assert len(set(names)) == len(names) == 10


def test_the_same_command_finds_what_is_there_and_writes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    arguments = [*inputs(folder), "--task", f"{folder}/task.py", "--quiet", *FAST]
    for name in ("one", "two", "one"):
        done = run(*arguments, "--out", tmp_path / name)
        assert (done.exit_code, done.output) == (0, "")
    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    assert one.keys() == two.keys()
    assert all(one[name] == two[name] for name in one if name.endswith("safetensors"))
    told = refused(*arguments, "--out", tmp_path / "one", "--margin", 0.5)
    assert "another run (margin was 0.2, is now 0.5)" in told


def test_bad_input_is_refused_in_a_sentence_and_writes_nothing(folder: Path, tmp_path: Path) -> None:
    one, two, three = inputs(folder)
    task, out = ["--task", f"{folder}/task.py"], ["--out", tmp_path / "run"]
    before = files(folder)
    assert "three checkpoints or more, got 2" in refused(one, two, *task, *out)
    told = refused(one, two, one, *task, *out)
    assert "do not lie on one line" in told
    assert "1.safetensors" in told
    middle = tmp_path / "middle.safetensors"
    blend = [Weights.from_state_dict(dict(read)) for read in (_read(one), _read(two))]
    save_weights(blend[0] * 0.25 + blend[1] * 0.75, middle)
    assert "do not lie on one line" in refused(one, two, middle, *task, *out)
    assert "another architecture" in refused(one, two, three, "--task", f"{folder}/task.py:wide", *out)
    assert "at least 3 nodes a side, got 2" in refused(one, two, three, *task, *out, "--resolution", 2)
    assert "0 or more, got -0.1" in refused(one, two, three, *task, *out, "--margin", -0.1)
    assert "between 0 and 1, got 1.5" in refused(one, two, three, *task, *out, "--precision", 1.5)
    assert "--of loss or --of error" in refused(one, two, three, *task, *out, "--of", "accuracy")
    assert "0 (all) or more" in refused(one, two, three, *task, *out, "--examples", -1)
    assert "recalibration must be at least 1" in refused(one, two, three, *task, *out, "--recalibration", 0)
    (tmp_path / "empty").mkdir()
    assert "holds no controls of a path" in refused(
        one, two, three, *task, *out, "--curve", tmp_path / "empty"
    )
    curve = folder / "curve"
    assert "are the same" in refused(one, two, three, *task, *out, "--curve", curve, "--curve", curve)
    assert "missing.safetensors" in refused(one, two, tmp_path / "missing.safetensors", *task, *out)
    assert not (tmp_path / "run").exists()
    assert files(folder) == before


def _read(path: Path) -> dict[str, torch.Tensor]:
    from isthmus import load_weights

    return dict(load_weights(path))


def test_a_page_escapes_names_and_holds_no_number_that_is_not_finite(folder: Path, tmp_path: Path) -> None:
    done = run(*inputs(folder), "--task", f"{folder}/task.py", "--out", tmp_path / "run", "--quiet", *FAST)
    assert done.exit_code == 0
    study = read_record(tmp_path / "run" / "records" / "study.json", PlaneStudy)
    for surface in study.surfaces:
        surface.loss[0, 0] = torch.inf
    hostile = replace(study, task="<script>alert(1)</script>")
    page = render_report(hostile)
    assert "<script>alert" not in page
    drawn = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page, flags=re.S)
    assert len(drawn) == 10
    assert not [spec for spec in drawn if re.search(r":\s*(NaN|-?Infinity)|[\[,]\s*(NaN|-?Infinity)", spec)]
