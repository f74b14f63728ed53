"""`isthmus fuse` as a user meets it, on good input and on bad."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner, Result

from isthmus import Landscape, Weights, load_weights, save_weights
from isthmus.cli.fuse import fuse
from isthmus.experiments.fusing import FusionSettings, study_fusion
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

def mlp(width=12):
    return nn.Sequential(nn.Linear(8, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 3))

recipe = Recipe(epochs=3, batch=32, rate=0.1)
task = Task(model=mlp, train=blobs(256, 1), test=blobs(200, 2), recipe=recipe, name="blobs")
wide = Task(model=lambda: mlp(20), train=task.train, test=task.test, recipe=recipe, name="wide")
deep = Task(model=lambda: nn.Sequential(nn.Linear(8, 9), nn.ReLU(), nn.Linear(9, 3)), train=task.train,
            test=task.test, name="deep")
"""
app = typer.Typer()
app.command()(fuse)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(part) for part in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task file, and checkpoints of its networks."""
    from isthmus import train

    place = tmp_path_factory.mktemp("fuse")
    (place / "task.py").write_text(TASK)
    for name, seed in (("task", 1), ("task", 2), ("wide", 3)):
        save_weights(train(load_task(f"{place}/task.py:{name}"), seed), place / f"{name}{seed}.safetensors")
    deep = load_task(f"{place}/task.py:deep")
    save_weights(Weights.from_module(deep.build(0)), place / "deep.safetensors")
    return place


def test_two_checkpoints_become_one(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "fused.safetensors"
    task = f"{folder}/task.py"
    done = call(folder / "task1.safetensors", folder / "task2.safetensors", "-t", task, "--out", out)
    assert done.exit_code == 0, done.output
    for row in ("A", "B", "plain average", "fused", "held-out", "hidden axes carried: 1"):
        assert row in done.output
    fused = load_weights(out, like=load_task(task).network)
    assert "1.running_mean" in fused.buffers


def test_other_widths_activations_and_json(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "fused.safetensors"
    done = call(
        folder / "wide3.safetensors", folder / "task2.safetensors", "-t", f"{folder}/task.py",
        "--task-a", f"{folder}/task.py:wide", "--cost", "activations", "--marginals", "importance",
        "--plan", "sinkhorn", "--share", "0.4", "--out", out, "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    names = [name for name, _ in record["study"]["scored"]]
    assert names == ["A", "B", "fused"]
    (axis,) = record["study"]["axes"]
    assert (axis["units_a"], axis["units_b"]) == (20, 12)
    assert record["study"]["settings"]["share"] == 0.4
    assert record["out"] == str(out)
    assert out.exists()


def test_quiet_says_nothing_and_the_whole_share_is_b(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "fused.safetensors"
    task = f"{folder}/task.py"
    ends = folder / "task1.safetensors", folder / "task2.safetensors"
    done = call(*ends, "-t", task, "--share", "1", "--out", out, "--quiet")
    assert (done.exit_code, done.output) == (0, "")
    b = load_weights(ends[1], like=load_task(task).network)
    fused = load_weights(out, like=load_task(task).network)
    assert fused.vector.equal(b.vector)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--plan", "greedy"], "--plan must be exact or sinkhorn, got 'greedy'"),
        (["--cost", "none"], "--cost must be weights or activations, got 'none'"),
        (["--share", "1.5"], "the share of B must lie in [0, 1], got 1.5"),
        (["--sweeps", "-1"], "sweeps must be 0 or more"),
        (["--examples", "0", "--cost", "activations"], "activations need at least 1 example"),
        (["--regularisation", "0"], "must be above 0"),
        (["--device", "meta"], "holds no numbers"),
    ],
)
def test_a_bad_setting_is_a_sentence(folder: Path, tmp_path: Path, options: list[str], told: str) -> None:
    out = tmp_path / "fused.safetensors"
    ends = folder / "task1.safetensors", folder / "task2.safetensors"
    done = call(*ends, "-t", f"{folder}/task.py", "--out", out, *options)
    assert done.exit_code == 2
    assert told in " ".join(done.output.split())
    assert not list(tmp_path.iterdir())


def test_other_networks_and_files_are_refused(folder: Path, tmp_path: Path) -> None:
    task, ends = f"{folder}/task.py", (folder / "deep.safetensors", folder / "task2.safetensors")
    out = tmp_path / "fused.safetensors"
    done = call(*ends, "-t", task, "--task-a", f"{task}:deep", "--out", out)
    assert (done.exit_code, out.exists()) == (2, False)
    assert "networks differ in widths alone, but where A has the parameter" in " ".join(done.output.split())
    done = call(folder / "wide3.safetensors", ends[1], "-t", task, "--out", out)
    assert (done.exit_code, out.exists()) == (2, False)
    assert "0.weight (expected [12, 8], got [20, 8])" in " ".join(done.output.split())
    out.write_text("mine")
    done = call(folder / "task1.safetensors", ends[1], "-t", task, "--out", out)
    assert (done.exit_code, out.read_text()) == (2, "mine")
    assert "--force" in done.output


def test_a_fusion_is_scored_on_the_data_of_b_with_statistics_of_its_own(tmp_path):
    """A's task has other data, on which nothing may be scored; an average has statistics of its own."""
    (tmp_path / "task.py").write_text(TASK)
    task_b = load_task(f"{tmp_path}/task.py:task")
    task_a = replace(
        load_task(f"{tmp_path}/task.py:wide"), train=(torch.zeros(40, 8), torch.zeros(40).long())
    )
    a, b = Weights.from_module(task_a.build(1)), Weights.from_module(task_b.build(2))
    fused, study = study_fusion(task_a, a, task_b, b, FusionSettings())
    assert fused.equal(Landscape(task_b).settled([fused.with_buffers(b.buffers)]))
    scored = dict(study.scored)
    assert {score.examples for score in scored["A"]} == {256, 200}
