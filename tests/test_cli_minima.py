"""`isthmus minima` as a user meets it."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from isthmus import load_controls, load_weights, save_weights
from isthmus.cli.minima import minima
from isthmus.experiments.minimarecords import MinimaStudy
from isthmus.experiments.train import train
from isthmus.report.minima import minima_page
from isthmus.report.studies import PAGES
from isthmus.tasks.userfile import load_task
from test_cli import TASK, files

PAGES.setdefault(MinimaStudy, minima_page)

app = typer.Typer()
app.command()(minima)


@app.command()
def other() -> None:
    """A second command, so that the first keeps its name."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task file and four trained checkpoints."""
    place = tmp_path_factory.mktemp("user")
    (place / "task.py").write_text(TASK)
    problem = load_task(f"{place}/task.py")
    for seed in (1, 2, 3, 4):
        save_weights(train(problem, seed), place / f"blobs-{seed}.safetensors")
    return place


def inputs(folder: Path) -> list[Path]:
    return [folder / f"blobs-{seed}.safetensors" for seed in (1, 2, 3, 4)]


def run(*arguments: object):
    return CliRunner().invoke(app, ["minima", *(str(a) for a in arguments)])


def refused(*arguments: object) -> str:
    done = run(*arguments)
    text = " ".join(done.output.split())
    assert done.exit_code == 2, f"{done.exit_code}: {text} {done.exception!r}"
    assert "Traceback" not in text
    return text


def quick(folder: Path) -> list[str]:
    return ["--task", f"{folder}/task.py", "--kind", "chain", "--curve-steps", "40"]


def test_the_tree_is_told_and_written(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = run(*inputs(folder), *quick(folder), "--edges", 4, "--out", out)
    assert done.exit_code == 0, done.output
    text = " ".join(done.output.split())
    for told in ("saddle / ends", "held-out", "saddles / minima", "4 of 6 pairs were tested", "report:"):
        assert told in text
    assert (out / "report.html").read_text(encoding="utf-8").count("disconnectivity-train") >= 1
    found = sorted(path.name for path in (out / "paths").iterdir())
    assert len(found) == 4
    for name in found:
        i, j = map(int, name.split("-"))
        path = load_controls(out / "paths" / name, "chain")
        assert path(0).equal(load_weights(inputs(folder)[i]))
        assert path(1).equal(load_weights(inputs(folder)[j]))


def test_json_holds_every_edge_and_the_heights(folder: Path, tmp_path: Path) -> None:
    done = run(*inputs(folder), *quick(folder), "--edges", 0, "--out", tmp_path / "run", "--json")
    assert done.exit_code == 0, done.output
    study = json.loads(done.stdout)
    assert len(study["tree"]["edges"]) == 6
    assert study["tree"]["ending"] == "ALL_TESTED"
    heights = study["tree"]["heights"]
    for i in range(4):
        for j in range(4):
            assert heights[i][j] == heights[j][i]
            assert all(heights[i][j] <= max(heights[i][k], heights[k][j]) for k in range(4) if i != j)
    assert [ratio["split"] for ratio in study["ratios"]] == ["train", "test"]
    assert study["provenance"]["kind"] == "chain"


def test_the_folder_is_named_by_all_that_counts(folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    two = inputs(folder)[:2]
    for seed in (0, 1):
        assert run(*two, *quick(folder), "--seed", seed, "--quiet").exit_code == 0
    made = sorted(path.name for path in tmp_path.iterdir())
    assert len(made) == 2
    assert all(name.startswith("isthmus-minima-blobs-") for name in made)
    assert not run(*two, *quick(folder), "--quiet").output
    assert sorted(path.name for path in tmp_path.iterdir()) == made


def test_bad_input_is_refused_in_a_sentence_and_writes_nothing(folder: Path, tmp_path: Path) -> None:
    one, two, *_ = inputs(folder)
    out, quickly = ["--out", tmp_path / "o"], quick(folder)
    assert "two checkpoints or more to connect, got 1" in refused(one, *quickly, *out)
    assert "are the same weights" in refused(one, two, one, *quickly, *out)
    assert "needs at least 3 edges" in refused(*inputs(folder), *quickly, *out, "--edges", 2)
    assert "0 (no limit) or more, got -1" in refused(one, two, *quickly, *out, "--edges", -1)
    assert "expected a kind of path" in refused(one, two, *quickly, *out, "--kind", "spline")
    assert "epochs or steps" in refused(one, two, *quickly, *out, "--curve-epochs", 2)
    assert "missing.safetensors" in refused(one, tmp_path / "missing.safetensors", *quickly, *out)
    wide = ["--task", f"{folder}/task.py:wide", "--kind", "chain"]
    assert "another architecture" in refused(one, two, *wide, *out)
    assert not (tmp_path / "o").exists()


def test_a_fit_that_diverges_is_told(folder: Path, tmp_path: Path) -> None:
    done = run(*inputs(folder)[:2], *quick(folder), "--curve-rate", 1e9, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert "every fit diverged" in " ".join(done.output.split())


SCRIPT = """
import typer
from isthmus.cli.minima import minima
from isthmus.experiments.minimarecords import MinimaStudy
from isthmus.report.minima import minima_page
from isthmus.report.studies import PAGES

PAGES.setdefault(MinimaStudy, minima_page)
app = typer.Typer()
app.command("minima")(minima)
app.command("other")(lambda: None)
app()
"""


def test_kill_9_and_resume_give_identical_files(folder: Path, tmp_path: Path) -> None:
    """Killed in the first edge, after one, and after three; then the end: files as in an undisturbed run."""
    (tmp_path / "script.py").write_text(SCRIPT)
    out = tmp_path / "run"
    options = ["--task", f"{folder}/task.py", "--kind", "chain", "--curve-steps", "3000", "--edges", "4"]
    command = [sys.executable, "script.py", "minima", *map(str, inputs(folder))]
    command += [*options, "--out", str(out), "--quiet"]
    subprocess.run(command, check=True, cwd=tmp_path)
    expected = files(out)
    shutil.rmtree(out)
    finished: dict[str, int] = {}
    for edges in (0, 1, 3):
        process = subprocess.Popen(command, cwd=tmp_path)
        minima_done = out / "records" / "minimum-3.json"
        while not minima_done.exists() or len(list(out.glob("records/edge-*.json"))) < edges:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for name, when in finished.items():
            assert (out / "records" / name).stat().st_mtime_ns == when, "a finished edge was made again"
        finished = {path.name: path.stat().st_mtime_ns for path in out.glob("records/edge-*.json")}
    subprocess.run(command, check=True, cwd=tmp_path)
    assert files(out) == expected


def test_help_needs_nothing_heavy() -> None:
    code = "import sys, isthmus.cli.minima; print([m for m in ('torch', 'networkx') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
