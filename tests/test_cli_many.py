"""`isthmus align-many` as a user meets it."""

import json
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from isthmus import Weights, load_weights, save_weights
from isthmus.cli import align_many as command
from isthmus.cli.align_many import align_many
from isthmus.cli.session import say
from isthmus.errors import SettingError
from isthmus.experiments.train import train
from isthmus.report.manymodels import models_table, pairs_table
from isthmus.tasks.userfile import load_task
from test_cli import TASK, files

app = typer.Typer()
app.command()(align_many)


@app.command()
def other() -> None:
    """A second command, so that the first keeps its name."""


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
    return CliRunner().invoke(app, ["align-many", *(str(a) for a in arguments)])


def refused(*arguments: object) -> str:
    done = run(*arguments)
    text = " ".join(done.output.split())
    assert done.exit_code == 2, f"{done.exit_code}: {text} {done.exception!r}"
    assert "Traceback" not in text
    return text


def inputs(folder: Path) -> list[Path]:
    return [folder / f"{seed}.safetensors" for seed in (1, 2, 3)]


@pytest.mark.parametrize("method", ["universe", "frank-wolfe", "merge-many", "star"])
def test_every_model_and_their_mean_are_written(folder: Path, tmp_path: Path, method: str) -> None:
    out = tmp_path / "out"
    done = run(*inputs(folder), "--task", f"{folder}/task.py", "--method", method, "--out", out, "--json")
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert sorted(files(out)) == [
        "1-aligned.safetensors", "2-aligned.safetensors", "3-aligned.safetensors", "merged.safetensors",
    ]  # fmt: skip
    given = [load_weights(path) for path in inputs(folder)]
    aligned = [load_weights(path) for path in record["files"]]
    assert aligned[0].equal(given[0]), "the first one's order stays"
    problem = load_task(f"{folder}/task.py")
    x = problem.example
    for one, two in zip(given, aligned, strict=True):
        outputs = [
            each.to_module(problem.model())(*x if isinstance(x, tuple) else (x,)) for each in (one, two)
        ]
        torch.testing.assert_close(*outputs)
    torch.testing.assert_close(load_weights(record["merged"]).vector, sum(w.vector for w in aligned) / 3)
    study = record["study"]
    assert study["method"] == method
    assert len(study["pairs"]) == 3
    assert study["objective"] == pytest.approx(sum(pair["after"] for pair in study["pairs"]))
    assert study["objective"] > study["objective_before"]
    assert study["pairs"][2]["after"] == pytest.approx(aligned[1].dot(aligned[2]))
    for scores in (study["merged"], study["unaligned"], *(each["scores"] for each in study["ingredients"])):
        assert {score["split"] for score in scores} == {"train", "test"}
        assert all(score["loss_low"] <= score["loss"] <= score["loss_high"] for score in scores)


def test_the_tables_say_what_was_found(folder: Path, tmp_path: Path) -> None:
    merged = tmp_path / "m.pt"
    done = run(*inputs(folder), "--task", f"{folder}/task.py", "--out", tmp_path / "o", "--merged", merged)
    assert done.exit_code == 0, done.output
    text = " ".join(done.output.split())
    for told in (
        "1 and 2",
        "cosine after",
        "aligned mean",
        "naive mean",
        "held-out",
        "by universe",
    ):
        assert told in text
    assert isinstance(load_weights(merged), Weights)
    assert torch.load(merged, weights_only=True).keys() == load_weights(folder / "1.safetensors").keys()


def test_quiet_prints_nothing(folder: Path, tmp_path: Path) -> None:
    done = run(*inputs(folder), "--task", f"{folder}/task.py", "--out", tmp_path / "o", "--quiet")
    assert done.exit_code == 0
    assert not done.output


def test_the_same_command_writes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        run(
            *inputs(folder),
            "--task",
            f"{folder}/task.py",
            "--out",
            tmp_path / name,
            "--quiet",
            "--restarts",
            2,
        )
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_files_of_one_name_are_told_apart(folder: Path, tmp_path: Path) -> None:
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes((folder / "1.safetensors").read_bytes())
    done = run(
        tmp_path / "x/model.safetensors", tmp_path / "y/model.safetensors",
        "--task", f"{folder}/task.py", "--out", tmp_path / "o", "--quiet",
    )  # fmt: skip
    assert done.exit_code == 0
    assert sorted(files(tmp_path / "o")) == [
        "1-model-aligned.safetensors", "2-model-aligned.safetensors", "merged.safetensors",
    ]  # fmt: skip


def test_bad_input_is_refused_in_a_sentence_and_writes_nothing(folder: Path, tmp_path: Path) -> None:
    one, two, three = inputs(folder)
    task, out = ["--task", f"{folder}/task.py"], tmp_path / "o"
    before = files(folder)
    assert "two checkpoints or more" in refused(one, *task, "--out", out)
    assert "there is no method 'mean'" in refused(one, two, *task, "--method", "mean", "--out", out)
    assert "at least 1" in refused(one, two, *task, "--restarts", 0, "--out", out)
    assert "is a file: the aligned checkpoints go to a folder" in refused(one, two, *task, "--out", three)
    assert "given checkpoints, which are only read" in refused(
        one, two, *task, "--out", out, "--merged", two, "--force"
    )
    assert "is the name of an aligned checkpoint" in refused(
        one, two, *task, "--out", out, "--merged", out / "2-aligned.safetensors"
    )
    assert "missing.safetensors" in refused(one, tmp_path / "missing.safetensors", *task, "--out", out)
    wide = ["--task", f"{folder}/task.py:wide"]
    assert "another architecture" in refused(one, two, *wide, "--out", out)
    assert not out.exists()
    assert files(folder) == before


def test_files_that_are_there_are_replaced_only_by_force(folder: Path, tmp_path: Path) -> None:
    arguments = [*inputs(folder)[:2], "--task", f"{folder}/task.py", "--out", tmp_path, "--quiet"]
    (tmp_path / "2-aligned.safetensors").write_text("mine")
    (tmp_path / "beside.txt").write_text("mine too")
    assert "2-aligned.safetensors exists already" in refused(*arguments)
    assert sorted(files(tmp_path)) == ["2-aligned.safetensors", "beside.txt"]
    assert run(*arguments, "--force").exit_code == 0
    assert (tmp_path / "beside.txt").read_text() == "mine too"
    assert load_weights(tmp_path / "2-aligned.safetensors")


def test_if_one_file_cannot_be_written_none_appears(folder: Path, tmp_path: Path) -> None:
    weights = load_weights(folder / "1.safetensors")
    place = tmp_path / "file"
    place.write_text("no folder")
    with pytest.raises(SettingError, match="cannot write"):
        command._write_all([weights, weights], [tmp_path / "a.pt", place / "b.pt"], [{}, {}])
    assert sorted(files(tmp_path)) == ["file"]


def test_the_tables_are_of_the_records(capsys: pytest.CaptureFixture[str]) -> None:
    """More pairs than are shown are told of, and a merged model that is worse is not called better."""
    from isthmus.experiments.manymodels import Ingredient, ManyStudy, PairRow
    from isthmus.scores import Score

    def both(loss: float) -> tuple[Score, ...]:
        return tuple(
            Score(split, 10, loss, loss / 2, 2 * loss, 0.1, 0.0, 0.2, 0.95, "none")
            for split in ("train", "test")
        )

    models = tuple(Ingredient(f"m{i}", "", "", (), 0.5, both(0.1 * (i + 1))) for i in range(2))
    pairs = tuple(PairRow("m0", f"m{i}", 1.0, 1.0 + i, 100.0) for i in range(20))
    study = ManyStudy("star", "done", 5.0, 1.0, 0.1, models, pairs, both(0.15), both(0.3))
    say(pairs_table(study))
    say(models_table(study))
    text = " ".join(capsys.readouterr().out.split())
    assert "5 more pairs" in text
    assert "below 1 of the 2 models (0.1000 to 0.2000)" in text
