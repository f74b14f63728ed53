"""Length against level: the study, its page and figure, and the command as a user meets it."""

import json
import math
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from conftest import Killed
from isthmus import Landscape, load_controls, save_weights, train
from isthmus.cli.levels import levels
from isthmus.connect.abstract import Outcome, find_saddle
from isthmus.errors import SettingError
from isthmus.experiments.levels import LevelSettings, LevelStudy, chosen_levels, levels_identity, study_levels
from isthmus.io.checkpoints import Checkpoint, read_checkpoint
from isthmus.io.records import read_record, records_equal, write_record
from isthmus.io.runs import Run
from isthmus.io.state import FileStore
from isthmus.landscape import Task
from isthmus.report import studies
from isthmus.report.html import render_report
from isthmus.report.levels import level_rows, levels_figure, levels_page
from isthmus.tasks.userfile import load_task
from test_cli import TASK

SETTINGS = LevelSettings((0.5, 0.2, 0.09), positions=9)

app = typer.Typer()
app.command()(levels)


@app.command()
def other() -> None:
    """A second command, so that the first keeps its name."""


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(studies.PAGES, LevelStudy, levels_page)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task file and two trained checkpoints, whose straight line rises well above them."""
    place = tmp_path_factory.mktemp("user")
    text = TASK.replace("nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 3)", _DEEP)
    (place / "task.py").write_text(text)
    problem = load_task(f"{place}/task.py")
    for seed in (1, 2):
        save_weights(train(problem, seed), place / f"{seed}.safetensors")
    return place


_INNER = "nn.ReLU(), nn.Linear(24, 24), "
_DEEP = f"nn.Linear(8, 24), {_INNER * 2}nn.ReLU(), nn.Linear(24, 3)"


@pytest.fixture(scope="module")
def task(folder: Path) -> Task:
    return load_task(f"{folder}/task.py")


@pytest.fixture(scope="module")
def pair(folder: Path, task: Task) -> tuple[Checkpoint, Checkpoint]:
    one, two = (read_checkpoint(folder / f"{seed}.safetensors", like=task.network) for seed in (1, 2))
    return one, two


@pytest.fixture(scope="module")
def study(task: Task, pair) -> LevelStudy:
    return study_levels(task, *pair, SETTINGS)


def run(*arguments: object):
    return CliRunner().invoke(app, ["levels", *(str(a) for a in arguments)])


def refused(*arguments: object) -> str:
    done = run(*arguments)
    text = " ".join(done.output.split())
    assert done.exit_code == 2, f"{done.exit_code}: {text} {done.exception!r}"
    assert "Traceback" not in text
    return text


def inputs(folder: Path) -> list[object]:
    return [folder / "1.safetensors", folder / "2.safetensors", "--task", f"{folder}/task.py"]


# -- the study ------------------------------------------------------------------------------------


def test_every_level_is_searched_and_measured(study: LevelStudy, task: Task, pair) -> None:
    assert [row.level for row in study.rows] == [0.5, 0.2, 0.09]
    assert study.line.loss > 0.5, "otherwise there would be nothing to search for"
    assert max(study.at_ends) < 0.09
    for row in study.rows:
        assert row.outcome is Outcome.CONNECTED_AT_LEVEL
        assert row.connected
        assert row.stopped_by == ""
        assert row.highest.loss <= 1.02 * row.level
        assert row.ratio >= 1
        assert row.straight == pytest.approx(pair[0].weights.distance(pair[1].weights))
        assert row.held_out.split == "test"
        assert row.held_out.loss > 0
    ratios = [row.ratio for row in study.rows]
    assert ratios == sorted(ratios), "the lower the level, the longer the way"
    assert [end.scores[0].examples for end in study.ends] == [256, 256]


def test_the_chains_are_kept_as_checkpoints(study: LevelStudy, task: Task, pair, tmp_path) -> None:
    held = Run.open(tmp_path / "run", "levels", levels_identity(task, *pair, SETTINGS))
    again = study_levels(task, *pair, SETTINGS, run=held)
    held.close()
    assert records_equal(again.rows, study.rows)
    for row in again.rows:
        path = load_controls(tmp_path / "run" / row.controls, "chain")
        assert len(path.controls) == row.beads + 2
        assert path(0).equal(pair[0].weights)
        assert path(1).equal(pair[1].weights)
        found = find_saddle(path, Landscape(task), 1001)
        assert row.highest.loss <= found.loss * 1.01 <= 1.05 * row.level
        assert row.length == pytest.approx(path.length, rel=1e-3)
    assert not (tmp_path / "run" / "state").exists()


class Dying(FileStore):
    """Dies after so many steps in all."""

    left = 0

    def due(self) -> bool:
        Dying.left -= 1
        if Dying.left == 0:
            raise Killed
        return Dying.left % 5 == 0

    def part(self, name: str) -> FileStore:
        return Dying(super().part(name).path, self.every)


@pytest.mark.parametrize("after", [3, 12])
def test_a_killed_run_goes_on(study: LevelStudy, task: Task, pair, tmp_path, monkeypatch, after: int) -> None:
    identity = levels_identity(task, *pair, SETTINGS)
    monkeypatch.setattr("isthmus.io.runs.FileStore", Dying)
    Dying.left = after
    first = Run.open(tmp_path / "run", "levels", identity)
    with pytest.raises(Killed):
        study_levels(task, *pair, SETTINGS, run=first)
    first.close()
    monkeypatch.setattr("isthmus.io.runs.FileStore", FileStore)
    second = Run.open(tmp_path / "run", "levels", identity)
    resumed = study_levels(task, *pair, SETTINGS, run=second)
    second.close()
    assert records_equal(resumed.rows, study.rows)


def test_the_record_comes_back(study: LevelStudy, tmp_path) -> None:
    write_record(study, tmp_path / "study.json")
    assert records_equal(read_record(tmp_path / "study.json", LevelStudy), study)


def test_levels_are_chosen_where_none_are_given(task: Task, pair) -> None:
    found = study_levels(task, *pair, LevelSettings(count=3, positions=5, depth=1, steps=20))
    levels = [row.level for row in found.rows]
    assert levels == pytest.approx(chosen_levels(found.at_ends, found.line.loss, 3))
    assert levels[-1] == pytest.approx(1.1 * max(found.at_ends))
    assert levels[0] == pytest.approx(0.9 * found.line.loss)
    assert levels[1] == pytest.approx(math.sqrt(levels[0] * levels[2]))


def test_levels_of_the_error(task: Task, pair) -> None:
    found = study_levels(task, *pair, LevelSettings((0.2, 0.1), of="error", positions=9))
    worse = max(found.at_ends)
    assert worse == float(Landscape(task).evaluate([p.weights for p in pair], "train").mean_error.max())
    for row in found.rows:
        assert row.connected
        assert row.highest.error <= 1.02 * row.level
    assert "10.00 %" in level_rows(found).rows[1][0].text


def test_refused_levels(task: Task, pair, study: LevelStudy) -> None:
    with pytest.raises(SettingError, match="below an end's own training loss"):
        study_levels(task, *pair, LevelSettings((0.5, 0.5 * max(study.at_ends))))
    with pytest.raises(SettingError, match="no levels can be chosen"):
        chosen_levels((0.0, 0.0), 1.0, 3)
    with pytest.raises(SettingError, match="no levels can be chosen"):
        chosen_levels((1.0, 1.0), 1.1, 3)
    with pytest.raises(SettingError, match="finite"):
        LevelSettings((math.nan,))
    with pytest.raises(SettingError, match="at least 2"):
        LevelSettings(count=1)
    with pytest.raises(SettingError, match="'loss' or 'error'"):
        LevelSettings(of="accuracy")  # type: ignore[arg-type]


# -- the page -------------------------------------------------------------------------------------


def test_the_page_tells_what_was_found(study: LevelStudy) -> None:
    page = levels_page(study)
    low = study.rows[-1]
    assert page.headline.startswith("Connected at a training loss of 0.09, by a path ")
    assert page.headline.endswith(f"{low.ratio:.3f} times as long as the straight line")
    assert f"none of {low.highest.points} positions tested on 256 examples" in page.sentence
    assert "proves nothing" in page.aside
    assert [card.state for card in page.cards] == ["connected"] * 3
    assert [section.name for section in levels_page(study, "x-").sections] == [
        "x-networks", "x-levels", "x-reading", "x-provenance",
    ]  # fmt: skip
    text = render_report(study)
    assert text == render_report(study)
    assert "Length against level" in text
    assert text.count("positions tested on 256 examples") == 1
    for name in ("length-against-level", "beads-against-level"):
        assert f'id="{name}"' in text


def test_the_figure_shows_every_level_where_it_is(study: LevelStudy) -> None:
    figure = levels_figure(study)
    lengths, beads = (trace for trace in figure.data if trace.name == "a path below the level")
    assert list(lengths.x) == [0.5, 0.2, 0.09]
    assert list(lengths.y) == [row.ratio for row in study.rows]
    assert list(beads.y) == [row.beads for row in study.rows]
    assert figure.layout.xaxis.type == "log"
    low, high = figure.layout.xaxis.range
    assert low < math.log10(max(study.at_ends)) < math.log10(study.line.loss) < high


def test_a_level_without_a_path_is_told(task: Task, pair, study: LevelStudy) -> None:
    least = 1.01 * max(study.at_ends)
    found = study_levels(task, *pair, LevelSettings((0.5, least), depth=0, positions=9))
    assert [row.outcome for row in found.rows] == [Outcome.NOT_FOUND_WITHIN_DEPTH] * 2
    page = levels_page(found)
    assert page.headline == "No path was found at any of 2 levels of the loss"
    assert page.sentence.startswith("No path was found at 0.5, ")
    assert [card.state for card in page.cards] == ["undecided"] * 2
    assert [cell.text for cell in level_rows(found).rows[0][1:3]] == ["✗ at full depth", "—"]
    crosses = [trace for trace in levels_figure(found).data if trace.name == "none found"]
    assert list(crosses[0].x) == [0.5, least]
    assert "Crosses: no path was found." in render_report(found)


def test_a_level_of_zero_is_drawn_on_an_even_axis(study: LevelStudy) -> None:
    from dataclasses import replace

    rows = (*study.rows, replace(study.rows[-1], level=0.0))
    assert levels_figure(replace(study, rows=rows)).layout.xaxis.type != "log"


# -- the command ----------------------------------------------------------------------------------


def test_the_command_writes_a_run_and_resumes(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    given = [*inputs(folder), "--levels", "0.5,0.2", "--positions", 9, "--out", out]
    done = run(*given)
    assert done.exit_code == 0, done.output
    text = " ".join(done.output.split())
    assert "Paths below levels of the training loss" in text
    assert "✓ found" in text
    assert "report:" in text
    assert (out / "report.html").exists()
    assert (out / "level-2" / "1.safetensors").exists()
    before = (out / "records" / "study.json").stat().st_mtime_ns
    again = run(*given, "--json")
    assert again.exit_code == 0, again.output
    record = json.loads(again.stdout)
    assert [row["level"] for row in record["rows"]] == [0.5, 0.2]
    assert record["rows"][0]["outcome"] == "CONNECTED_AT_LEVEL"
    assert (out / "records" / "study.json").stat().st_mtime_ns == before
    assert "holds another run (seed was 0, is now 1)" in refused(*given, "--seed", 1)


def test_quiet_prints_nothing(folder: Path, tmp_path: Path) -> None:
    done = run(*inputs(folder), "--levels", 0.5, "--positions", 5, "--out", tmp_path / "o", "--quiet")
    assert done.exit_code == 0
    assert not done.output


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--levels", "0.5,0.0001"), "the level 0.0001 lies below an end's own training loss"),
        (("--of", "error"), "no levels in equal ratios lead down to them"),
        (("--levels", "half"), "numbers with commas between them"),
        (("--of", "accuracy"), "--of takes loss or error"),
        (("--levels", "0.5", "--alpha", "2"), "0 < alpha <= 1"),
        (("--levels", "0.5", "--depth", "-1"), "depth must be at least 0"),
        (("--levels", "0.5", "--batchnorm", "odd"), "odd"),
    ],
)
def test_refusals_write_nothing(folder: Path, tmp_path: Path, options: tuple, told: str) -> None:
    assert told in refused(*inputs(folder), *options, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_same_network_twice_is_refused(folder: Path, tmp_path: Path) -> None:
    first, _, *task = inputs(folder)
    assert "are the same network" in refused(first, first, *task, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_pair_of_different_networks_is_refused(folder: Path, tmp_path: Path, task: Task) -> None:
    small = torch.nn.Linear(8, 3)
    torch.save(small.state_dict(), tmp_path / "small.pt")
    first = inputs(folder)[0]
    told = refused(first, tmp_path / "small.pt", "--task", f"{folder}/task.py", "--out", tmp_path / "run")
    assert "small.pt" in told
    assert not (tmp_path / "run").exists()
