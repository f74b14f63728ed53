"""`isthmus curves` as a user meets it."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from isthmus import load_controls, load_weights, save_weights
from isthmus.cli.curves import curves
from isthmus.experiments.alignedrecords import CurveComparison
from isthmus.experiments.train import train
from isthmus.io.records import read_record
from isthmus.report import studies
from isthmus.report.alignedcurves import curves_page
from isthmus.tasks.userfile import load_task
from test_cli import TASK, files

app = typer.Typer()
app.command()(curves)

FAST = [
    "--points",
    "5",
    "--curve-steps",
    "20",
    "--looks",
    "4",
    "--watch-points",
    "5",
    "--watch-examples",
    "50",
]


@app.command()
def other() -> None:
    """A second command, so that the first keeps its name."""


@pytest.fixture(autouse=True)
def paged(monkeypatch: pytest.MonkeyPatch) -> None:
    """The study has its page, whether or not the table of pages names it."""
    monkeypatch.setitem(studies.PAGES, CurveComparison, curves_page)


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
    return CliRunner().invoke(app, ["curves", *(str(a) for a in arguments)])


def refused(*arguments: object) -> str:
    done = run(*arguments)
    text = " ".join(done.output.split())
    assert done.exit_code == 2, f"{done.exit_code}: {text} {done.exception!r}"
    assert "Traceback" not in text
    return text


def inputs(folder: Path) -> list[Path]:
    return [folder / f"{seed}.safetensors" for seed in (1, 2, 3)]


def test_every_pair_is_compared_and_kept(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [*inputs(folder), "--task", f"{folder}/task.py", "--out", out, *FAST]
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert [(pair["first"], pair["second"]) for pair in record["pairs"]] == [
        ("1", "2"),
        ("1", "3"),
        ("2", "3"),
    ]
    assert record["method"] == "activation"
    assert record["shared"] is True
    length = next(each for each in record["contrasts"] if each["name"] == "length")
    curve = load_controls(out / "curves/1-2-aligned", "bezier")
    assert curve.length == pytest.approx(length["after"][0])
    assert curve.ends[0].equal(load_weights(inputs(folder)[0]))
    assert curve.ends[1].equal(load_weights(out / "aligned/1-2.safetensors"))
    assert read_record(out / "records/study.json", CurveComparison).multiple == 20
    page = (out / "report.html").read_text()
    assert "Unaligned against aligned" in page
    before = files(out)
    again = run(*arguments)
    assert again.exit_code == 0
    assert files(out) == before, "a finished run is read, and its page written the same"
    text = " ".join(again.output.split())
    for told in ("length", "maximum loss", "minimum accuracy", "held-out", "train", "3 of 3", "report:"):
        assert told in text


def test_options_reach_the_study(folder: Path, tmp_path: Path) -> None:
    done = run(
        *inputs(folder)[:2], "--task", f"{folder}/task.py", "--out", tmp_path / "o", *FAST, "--json",
        "--align", "weight", "--curve", "chain", "--bends", 2, "--pairs", "disjoint", "--level", 3,
        "--examples", 0,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    pair = record["pairs"][0]
    assert pair["matching"]["method"] == "weight"
    assert pair["aligned"]["curve"]["kind"] == "chain"
    assert pair["aligned"]["fit"]["settings"]["controls"] == 4
    assert pair["aligned"]["line"]["splits"][0]["examples"] == 256
    assert (record["multiple"], record["shared"]) == (3, False)


def test_quiet_prints_nothing(folder: Path, tmp_path: Path) -> None:
    done = run(*inputs(folder)[:2], "--task", f"{folder}/task.py", "--out", tmp_path / "o", *FAST, "--quiet")
    assert done.exit_code == 0
    assert not done.output


def test_bad_input_is_refused_in_a_sentence_and_writes_nothing(folder: Path, tmp_path: Path) -> None:
    one, two, three = inputs(folder)
    out = tmp_path / "o"
    rest = ["--task", f"{folder}/task.py", "--out", out, *FAST]
    before = files(folder)
    assert "two checkpoints or more, got 1" in refused(one, *rest)
    assert "expected for method one of weight, activation" in refused(one, two, *rest, "--align", "guess")
    assert "1-1 and 2-1 are the same network" in refused(one, one, *rest)
    assert "even number of networks" in refused(one, two, three, *rest, "--pairs", "disjoint")
    assert "must be above 1" in refused(one, two, *rest, "--level", 0.5)
    assert "expected for curve one of" in refused(one, two, *rest, "--curve", "spline")
    assert "0 (all) or more" in refused(one, two, *rest, "--examples", -1)
    assert "missing.safetensors" in refused(one, tmp_path / "missing.safetensors", *rest)
    wide = ["--task", f"{folder}/task.py:wide", "--out", out, *FAST]
    assert "another architecture" in refused(one, two, *wide)
    odd = tmp_path / "odd.safetensors"
    problem = load_task(f"{folder}/task.py:odd")
    save_weights(train(problem, 1), odd)
    save_weights(train(problem, 2), tmp_path / "odd2.safetensors")
    told = refused(odd, tmp_path / "odd2.safetensors", "--task", f"{folder}/task.py:odd", "--out", out, *FAST)
    assert "traced" in told or "data" in told, "a network that cannot be aligned is refused at the start"
    assert not out.exists()
    assert files(folder) == before


def test_a_folder_of_another_run_is_refused(folder: Path, tmp_path: Path) -> None:
    arguments = [
        *inputs(folder)[:2],
        "--task",
        f"{folder}/task.py",
        "--out",
        tmp_path / "o",
        *FAST,
        "--quiet",
    ]
    assert run(*arguments).exit_code == 0
    before = files(tmp_path)
    assert "holds another run (level was 20.0, is now 5.0)" in refused(*arguments, "--level", 5)
    assert files(tmp_path) == before
