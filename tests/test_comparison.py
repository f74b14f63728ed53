"""Methods side by side: the record, its tables and pictures, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import isthmus as im
from isthmus.cli.main import app
from isthmus.experiments.comparison import (
    NAIVE,
    REPAIRS,
    Comparison,
    ComparisonSettings,
    compare_matchings,
    comparison_identity,
)
from isthmus.io.records import read_record, records_equal, write_record
from isthmus.io.runs import Run
from isthmus.report.comparisons import line_rows, method_rows
from isthmus.report.formats import quantity
from isthmus.report.markdown import markdown_table
from isthmus.report.terminal import comparison_tables
from isthmus.tasks.userfile import load_task

TASK = """
import torch
from torch import nn
from isthmus import Recipe, Task

def blobs(count, seed):
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(3, (count,), generator=generator)
    centres = torch.randn(3, 8, generator=torch.Generator().manual_seed(99)) * 1.5
    return centres[target] + torch.randn(count, 8, generator=generator), target

recipe = Recipe(epochs=6, batch=32, rate=0.1)
def mlp():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
def normed():
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
task = Task(model=mlp, train=blobs(256, 1), test=blobs(200, 2), recipe=recipe, name="blobs")
norm = Task(model=normed, train=blobs(256, 1), test=blobs(200, 2), recipe=recipe, name="normed blobs")
"""
CHEAP = ComparisonSettings(methods=("weight", "activation"), points=5, examples=100, recalibration=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("user")
    (place / "task.py").write_text(TASK)
    for name in ("task", "norm"):
        for seed in (1, 2):
            task = load_task(f"{place}/task.py:{name}")
            im.save_weights(im.train(task, seed), place / f"{name}{seed}.safetensors")
    return place


@pytest.fixture(scope="module")
def normed(folder) -> Comparison:
    task, a, b = opened(folder, "norm")
    return compare_matchings(task, a, b, CHEAP, command="made by hand")


def opened(folder: Path, name: str):
    task = load_task(f"{folder}/task.py:{name}")
    return task, *(im.read_checkpoint(folder / f"{name}{s}.safetensors", like=task.network) for s in (1, 2))


def run(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_every_method_and_repair_is_measured(normed):
    assert [m.method for m in normed.methods] == [NAIVE, "weight", "activation"]
    assert {(line.method, line.repair) for line in normed.lines} == {
        (method, repair) for method in (NAIVE, "weight", "activation") for repair in REPAIRS
    }
    for line in normed.lines:
        assert {(b.of, b.split, b.above) for b in line.barriers} == {
            (of, split, above) for of in ("loss", "error") for split in ("train", "test")
            for above in ("mean", "chord")
        }  # fmt: skip
        ends = line.profiles[0].evaluation.mean_loss[[0, -1]]
        # The ends are as their owners saved them, whatever is done between; B's units in another order.
        torch.testing.assert_close(ends, normed.lines[0].profiles[0].evaluation.mean_loss[[0, -1]])
        assert line.score().loss == pytest.approx(float(line.profiles[1].loss[2]))


def test_matching_brings_them_closer_and_costs_time(normed):
    naive, weight = normed.method(NAIVE), normed.method("weight")
    assert weight.inner_product > naive.inner_product
    assert weight.distance < naive.distance
    assert weight.objective == pytest.approx(weight.inner_product)
    assert weight.seconds > 0


def test_lines_lead_to_the_aligned_network_under_the_named_repair(folder, normed):
    """Computed anew from the pieces, so that no line can be another's."""
    task, a, b = opened(folder, "norm")
    land = im.Landscape(task, limit=100, recalibration=64)
    symmetry = im.discover(task.traceable, task.example)
    found = im.match_activations(a.weights, b.weights, symmetry, land)
    far = found.apply(b.weights)
    middle = (a.weights + far) * 0.5
    blended = im.Landscape(task, batchnorm="interpolate", limit=100)
    expected = {
        "none": blended.evaluate(im.Segment(a.weights, far).at(torch.tensor([0.5])), "test"),
        "reset": land.evaluate([middle], "test"),
        "repair": im.Landscape(task, batchnorm="keep", limit=100).evaluate(
            [im.repair_activations(middle, (a.weights, far), land, examples=64)], "test"
        ),
    }
    for repair, evaluation in expected.items():
        measured = normed.line("activation", repair).score("test")
        assert measured.loss == pytest.approx(float(evaluation.mean_loss), rel=1e-5)
    assert len({normed.line("activation", repair).score("test").loss for repair in expected}) == 3


def test_networks_without_batch_norm_have_nothing_to_reset(folder):
    found = compare_matchings(*opened(folder, "task"), CHEAP)
    assert {line.repair for line in found.lines} == {"none", "repair"}
    assert found.line("weight", "reset") is None


def test_the_record_comes_back_and_a_run_resumes(folder, normed, tmp_path):
    write_record(normed, tmp_path / "c.json")
    assert records_equal(read_record(tmp_path / "c.json", Comparison), normed)
    task, a, b = opened(folder, "norm")
    identity = comparison_identity(task, a, b, CHEAP)
    for settings in (ComparisonSettings(("weight",), ("reset",), 5, 100, 64), CHEAP):
        kept = Run.open(tmp_path / "run", "compare", identity)
        found = compare_matchings(task, a, b, settings, run=kept)
        kept.close()
    first = normed.line("weight", "reset")
    assert found.line("weight", "reset").barriers == first.barriers


def test_tables_and_picture(normed):
    tables = [method_rows(normed), line_rows(normed.lines)]
    assert all(len(row) == len(table.columns) for table in tables for row in table.rows)
    line = normed.line("weight", "reset")
    where = [row[0].text for row in tables[1].rows].index("weight") + 2  # none, then reset
    for row, split, name in ((where, "test", "held-out"), (where + 1, "train", "train")):
        cells = tables[1].rows[row]
        assert cells[1].text == name
        assert cells[2].text == quantity("error", line.barrier("error", split).height)
        assert cells[3].text == quantity("loss", line.barrier("loss", split).height)
        assert cells[4].text == quantity("error", line.score(split).error)
    text = markdown_table(tables[1])
    assert text.count("\n") == 1 + 2 * len(normed.lines)
    assert len(comparison_tables(normed)) == 2
    assert len(im.plot(normed, of="error").data) >= 2


def test_unknown_names_and_even_points_are_refused():
    for wrong in ({"methods": ("magic",)}, {"repairs": ("glue",)}, {"points": 4}):
        with pytest.raises(im.IsthmusError, match=r"expected|odd number"):
            ComparisonSettings(**wrong)


# -- the command ----------------------------------------------------------------------------------


def test_align_compare_prints_one_table_and_keeps_its_run(folder, tmp_path):
    options = ["--task", f"{folder}/task.py:norm", "--compare", "--points", 3, "--examples", 60, "--json"]
    ends = [folder / "norm1.safetensors", folder / "norm2.safetensors"]
    done = run("align", *ends, *options, "--out", tmp_path / "kept")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["task"] == "normed blobs"
    assert (tmp_path / "kept" / "records").is_dir()
    shown = run("align", *ends, *options[:-1], "--out", tmp_path / "kept")
    assert "repair: reset" in shown.output


def test_align_by_activations_measures_and_merges(folder, tmp_path):
    ends = [folder / "norm1.safetensors", folder / "norm2.safetensors"]
    out, merged = tmp_path / "out.safetensors", tmp_path / "merged.safetensors"
    options = [
        "--task",
        f"{folder}/task.py:norm",
        "--method",
        "activation",
        "--repair",
        "repair",
        "--points",
        3,
    ]
    done = run("align", *ends, *options, "--out", out, "--merged", merged, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["matching"]["method"] == "activation"
    assert found["line"]["repair"] == "repair"
    assert "profiles" not in found["line"], "the losses of single examples would fill the screen"
    task, a, b = opened(folder, "norm")
    symmetry = im.discover(task.traceable, task.example)
    expected = im.match_activations(a.weights, b.weights, symmetry, im.Landscape(task, limit=2000))
    written = im.read_checkpoint(out, like=task.network).weights
    assert written.equal(expected.apply(b.weights)), "what is written is the aligned B"
    middle = im.read_checkpoint(merged, like=task.network)
    assert middle.metadata["repair"] == "repair"
    land = im.Landscape(task, batchnorm="keep", limit=2000)
    score = next(s for s in im.scores(middle.weights, land) if s.split == "test")
    assert score.loss == pytest.approx(found["line"]["midpoint"][1]["loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "magic"], "expected a method of matching"),
        (["--repair", "glue"], "expected a repair"),
        (["--points", "4", "--repair", "none"], "odd number of points"),
        (["--compare", "--merged", "x.safetensors"], "leave --merged out"),
        (["--examples", "-1"], "0 \\(all\\) or more"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(folder, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    ends = [folder / "norm1.safetensors", folder / "norm2.safetensors"]
    done = run("align", *ends, "--task", f"{folder}/task.py:norm", *options)
    assert done.exit_code == 2, done.output
    import re

    assert re.search(message, " ".join(done.output.split()))
    assert not list(tmp_path.iterdir())


def test_an_input_is_never_written_over(folder, tmp_path):
    ends = [folder / "norm1.safetensors", folder / "norm2.safetensors"]
    link = tmp_path / "link.safetensors"
    link.symlink_to(ends[1])
    before = [end.read_bytes() for end in ends]
    options = ["--task", f"{folder}/task.py:norm", "--force"]
    for target in (ends[1], link):
        for wrong in (["--out", target], ["--merged", target, "--out", tmp_path / "o.pt"]):
            done = run("align", *ends, *options, *wrong)
            assert done.exit_code == 2
            assert "which are only read" in " ".join(done.output.split())
    done = run("align", *ends, *options, "--out", tmp_path / "o.pt", "--merged", tmp_path / "o.pt")
    assert done.exit_code == 2
    assert [end.read_bytes() for end in ends] == before
    assert not (tmp_path / "o.pt").exists()


def test_a_merged_file_that_exists_is_not_replaced(folder, tmp_path):
    ends = [folder / "norm1.safetensors", folder / "norm2.safetensors"]
    merged = tmp_path / "merged.safetensors"
    merged.write_bytes(b"mine")
    done = run(
        "align", *ends, "--task", f"{folder}/task.py:norm", "--merged", merged, "--out", tmp_path / "o.pt"
    )
    assert done.exit_code == 2
    assert merged.read_bytes() == b"mine"
    assert not (tmp_path / "o.pt").exists()


def test_connect_takes_a_method_of_matching(folder, tmp_path):
    ends = [folder / "norm1.safetensors", folder / "norm2.safetensors"]
    fast = ["--curve", "none", "--plane", 0, "--points", 3, "--examples", 60]
    options = ["--task", f"{folder}/task.py:norm", "--method", "activation", *fast]
    done = run("connect", *ends, *options, "--out", tmp_path / "run", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["matching"]["method"] == "activation"
    task, a, b = opened(folder, "norm")
    symmetry = im.discover(task.traceable, task.example)
    expected = im.match_activations(a.weights, b.weights, symmetry, im.Landscape(task, limit=60))
    written = im.load_weights(tmp_path / "run" / "aligned.safetensors", like=task.network)
    assert written.equal(expected.apply(b.weights))
    done = run("connect", *ends, *options[:2], "--method", "magic", *fast, "--out", tmp_path / "no")
    assert done.exit_code == 2
    assert "expected a method of matching" in " ".join(done.output.split())
