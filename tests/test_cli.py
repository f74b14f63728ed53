"""The command line as a user meets it: on good input, on bad input, and killed."""

import json
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from isthmus import Weights, discover, load_controls, load_weights, save_weights
from isthmus.cli.main import app
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

def mlp(width=16):
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 3))

recipe = Recipe(epochs=6, batch=32, rate=0.1)
task = Task(model=mlp, train=blobs(256, 1), test=blobs(200, 2), recipe=recipe, name="blobs")
wide = Task(model=lambda: mlp(20), train=task.train, test=task.test, name="wide")

class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 3)
    def forward(self, x):
        return self.layer(x) if x.sum().item() > 0 else self.layer(-x)

odd = Task(model=Odd, train=task.train, test=task.test, name="odd")
number = 3
empty = lambda: Task(model=mlp, train=(torch.zeros(0, 8), torch.zeros(0).long()), test=task.test)
unlabelled = lambda: Task(model=mlp, train=torch.zeros(5, 8), test=task.test)
build = mlp
"""
FAST = ["--points", "5", "--curve-steps", "20", "--plane", "5", "--plane-examples", "50"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task file and two trained checkpoints."""
    place = tmp_path_factory.mktemp("user")
    (place / "task.py").write_text(TASK)
    for seed in (1, 2):
        done = run(
            "train", "--task", f"{place}/task.py", "--seed", str(seed), "--out", f"{place}/{seed}.safetensors"
        )
        assert done.exit_code == 0, done.output
    return place


def run(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def refused(*arguments: object) -> str:
    """The message of a command that must end with exit code 2 and no traceback."""
    done = run(*arguments)
    text = " ".join(done.output.split())
    assert done.exit_code == 2, f"{done.exit_code}: {text} {done.exception!r}"
    assert "Traceback" not in text
    return text


def files(place: Path) -> dict[str, bytes]:
    return {str(f.relative_to(place)): f.read_bytes() for f in sorted(place.rglob("*")) if f.is_file()}


def test_connect_tells_the_whole_story(folder: Path, tmp_path: Path) -> None:
    a, b, out = folder / "1.safetensors", folder / "2.safetensors", tmp_path / "run"
    done = run("connect", "--task", f"{folder}/task.py", a, b, "--out", out, "--json", *FAST)
    assert done.exit_code == 0, done.output
    study = json.loads(done.stdout)
    assert [p["name"] for p in study["paths"]] == ["naive line", "aligned line", "curve", "aligned curve"]
    for name in (
        "report.html",
        "aligned.safetensors",
        "merged.safetensors",
        "curve/1.safetensors",
        "run.json",
    ):
        assert (out / name).exists(), name
    one, two, aligned, merged = (
        load_weights(f) for f in (a, b, out / "aligned.safetensors", out / "merged.safetensors")
    )
    assert one.distance(aligned) < one.distance(two)
    torch.testing.assert_close(merged.vector, ((one + aligned) * 0.5).vector)
    path = load_controls(out / "curve", "bezier")
    assert path(0).equal(one)
    assert path(1).equal(two)
    before = files(out)
    page = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    again = run("connect", "--task", f"{folder}/task.py", a, b, "--out", out, "--json", *FAST)
    assert again.exit_code == 0
    assert files(out) == before, "a finished run is not computed twice"
    (out / "report.html").write_text("spoilt")
    assert run("report", out).exit_code == 0
    assert (out / "report.html").read_bytes() == page


def test_the_single_steps(folder: Path, tmp_path: Path) -> None:
    task, a, b = f"{folder}/task.py", folder / "1.safetensors", folder / "2.safetensors"
    aligned = tmp_path / "aligned.pt"
    done = run("align", "--task", task, a, b, "--out", aligned)
    assert done.exit_code == 0, done.output
    assert load_weights(a).distance(load_weights(aligned)) < load_weights(a).distance(load_weights(b))
    done = run(
        "barrier", "--task", task, a, aligned, "--points", 5, "--json", "--out", tmp_path / "line.json"
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert {(x["of"], x["split"]) for x in found["barriers"]} == {
        (of, split) for of in ("loss", "error") for split in ("train", "test")
    }
    assert json.loads((tmp_path / "line.json").read_text())["record"] == "PathStudy"
    done = run(
        "curve",
        "--task",
        task,
        a,
        b,
        "--curve",
        "chain",
        "--curve-steps",
        20,
        "--points",
        5,
        "--out",
        tmp_path / "c",
    )
    assert done.exit_code == 0, done.output
    assert "curve" in done.output
    assert load_controls(tmp_path / "c" / "curve", "chain")(0).equal(load_weights(a))
    for options in (["--task", task], ["--model", f"{task}:build", "--input", "2,8"]):
        done = run("symmetry", *options, "--json", "--save", tmp_path / f"{options[0]}.json")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["log2_order"] == pytest.approx(44.25, abs=0.01)  # log2(16!)
        assert json.loads(done.stdout)["verification"]["passed"]
        text = refused("symmetry", *options, "--save", tmp_path / f"{options[0]}.json")
        assert "give another --save, or --force" in text
    assert run("symmetry", "--task", task).exit_code == 0


def test_a_network_and_its_own_permuted_copy(folder: Path, tmp_path: Path) -> None:
    """The aligned line has no length: nothing may divide by it, and no plane is drawn through it."""
    a, out = folder / "1.safetensors", tmp_path / "run"
    task = load_task(f"{folder}/task.py")
    symmetry = discover(task.network.module, task.example)
    shuffled = symmetry.random(torch.Generator().manual_seed(3)).apply(load_weights(a, like=task.network))
    b = save_weights(shuffled, tmp_path / "b.safetensors")
    done = run("connect", "--task", f"{folder}/task.py", a, b, "--out", out, "--json", *FAST)
    assert done.exit_code == 0, done.output
    study = json.loads(done.stdout)
    assert load_weights(out / "aligned.safetensors").equal(load_weights(a))
    assert study["matching"]["distance"] == 0
    aligned = study["paths"][1]
    assert aligned["length"] == 0
    assert all(barrier["height"] == 0 for barrier in aligned["barriers"])
    assert (
        run("connect", "--task", f"{folder}/task.py", a, a, "--out", tmp_path / "same", *FAST).exit_code == 0
    )


def test_quiet_says_nothing_and_json_is_only_json(folder: Path, tmp_path: Path) -> None:
    a, b = folder / "1.safetensors", folder / "2.safetensors"
    done = run("barrier", "--task", f"{folder}/task.py", a, b, "--quiet", "--points", 3)
    assert (done.exit_code, done.output) == (0, "")


def test_the_same_seed_trains_the_same_file(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "again.safetensors"
    assert run("train", "--task", f"{folder}/task.py", "--seed", 1, "--out", out).exit_code == 0
    assert out.read_bytes() == (folder / "1.safetensors").read_bytes()
    assert [f.name for f in tmp_path.iterdir()] == ["again.safetensors"]
    assert "exists already" in refused("train", "--task", f"{folder}/task.py", "--seed", 1, "--out", out)


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def bad_checkpoints(folder: Path, place: Path) -> dict[str, tuple[Path, str]]:
    """Every kind of bad checkpoint with a word that its message must hold."""
    good = folder / "2.safetensors"
    content = good.read_bytes()
    weights = load_weights(good)
    found: dict[str, tuple[Path, str]] = {}

    def add(name: str, word: str) -> Path:
        found[name] = (place / name, word)
        return place / name

    add("truncated.safetensors", "truncated").write_bytes(content[: len(content) // 2])
    add("empty.pt", "empty").write_bytes(b"")
    add("code.pt", "not").write_bytes(pickle.dumps({"state_dict": Bomb(place / "executed")}))
    torch.save({"model": Bomb(place / "executed")}, add("zipcode.pt", "code"))
    save_weights(Weights.from_module(torch.nn.Linear(8, 3)), add("other.safetensors", "missing"))
    broken = weights.vector.clone()
    broken[7] = float("nan")
    save_weights(Weights(weights.layout, broken), add("nan.safetensors", "NaN"))
    broken[7] = float("inf")
    save_weights(Weights(weights.layout, broken), add("inf.safetensors", "infinity"))
    state = weights.state_dict()
    torch.save({k: v for k, v in state.items() if k != "0.bias"}, add("missing.pt", "missing: 0.bias"))
    torch.save(state | {"3.extra": torch.ones(2)}, add("extra.pt", "unexpected: 3.extra"))
    torch.save(state | {"0.bias": torch.ones(5)}, add("shape.pt", "0.bias (expected [16], got [5])"))
    add("nothing.safetensors", "no")
    found["nothing.safetensors"][0].unlink(missing_ok=True)
    return found


def test_bad_checkpoints_are_refused_and_nothing_is_written(folder: Path, tmp_path: Path) -> None:
    a, out = folder / "1.safetensors", tmp_path / "out"
    for name, (path, word) in bad_checkpoints(folder, tmp_path).items():
        text = refused("connect", "--task", f"{folder}/task.py", a, path, "--out", out)
        assert word in text, f"{name}: {text}"
        assert path.name in text or word != "no", text
        assert not out.exists(), name
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("nonsense", "nonsense"),
        ("nothing.py", "there is no file"),
        ("{folder}/task.py:missing", "defines no 'missing'"),
        ("{folder}/task.py:number", "must be an isthmus.Task"),
        ("{folder}/task.py:empty", "are empty"),
        ("{folder}/task.py:unlabelled", "no labels"),
        ("{folder}/broken.py", "does not import: ZeroDivisionError: division by zero (line 2)"),
        ("{folder}/syntax.py", "does not import: SyntaxError"),
    ],
)
def test_bad_tasks_are_refused(folder: Path, tmp_path: Path, task: str, message: str) -> None:
    (folder / "broken.py").write_text("x = 1\ny = x / 0\n")
    (folder / "syntax.py").write_text("def f(:\n")
    a, out = folder / "1.safetensors", tmp_path / "out"
    assert message in refused("connect", "--task", task.format(folder=folder), a, a, "--out", out)
    assert not out.exists()


def test_missing_data_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ISTHMUS_DATA", raising=False)
    text = refused("train", "--task", "cifar10-resnet20", "--data", tmp_path, "--out", tmp_path / "x.pt")
    assert "data_batch_1.bin" in text
    assert "binary" in text
    text = refused("train", "--task", "mnist-mlp", "--out", tmp_path / "x.pt")
    assert "ISTHMUS_DATA" in text


def test_an_untraceable_model_is_refused(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "odd.safetensors"
    assert run("train", "--task", f"{folder}/task.py:odd", "--out", place, "--steps", 2).exit_code == 0
    text = refused("align", "--task", f"{folder}/task.py:odd", place, place, "--out", tmp_path / "x.pt")
    assert "torch.export" in text
    assert not (tmp_path / "x.pt").exists()
    text = refused("connect", "--task", f"{folder}/task.py:odd", place, place, "--out", tmp_path / "line")
    assert "add --no-align" in text
    assert not (tmp_path / "line").exists()
    options = ["--no-align", "--curve", "none", "--plane", 0, "--points", 3, "--out", tmp_path / "line"]
    done = run("connect", "--task", f"{folder}/task.py:odd", place, place, *options)
    assert done.exit_code == 0, "without alignment nothing needs to be traced"


def test_bad_settings_are_refused(folder: Path, tmp_path: Path) -> None:
    task, a, b = f"{folder}/task.py", folder / "1.safetensors", folder / "2.safetensors"
    assert "recalibrate, interpolate, keep" in refused(
        "barrier", "--task", task, a, b, "--batchnorm", "reset"
    )
    assert "points" in refused("connect", "--task", task, a, b, "--points", 1, "--out", tmp_path / "o")
    assert "bezier, chain, neb, string or none" in refused(
        "connect", "--task", task, a, b, "--curve", "spline", "--out", tmp_path / "o"
    )
    curve = ["curve", "--task", task, a, b, "--out", tmp_path / "o"]
    assert "finds no path" in refused(*curve, "--kind", "none")
    assert "a level is for the kind 'string'" in refused(*curve, "--level", 0.1)
    assert "epochs are for the fit of a curve" in refused(*curve, "--kind", "neb", "--curve-epochs", 1)
    assert "leave out the bends" in refused(*curve, "--kind", "string", "--bends", 2)
    assert "lies below an end's own training loss" in refused(*curve, "--kind", "string", "--level", 1e-6)
    assert "not both" in refused(*curve, "--curve-epochs", 1, "--curve-steps", 10)
    assert "cannot be used here" in refused("barrier", "--task", task, a, b, "--device", "quantum")
    assert "--input must be a shape" in refused("symmetry", "--model", f"{task}:build", "--input", "3,x")
    assert "either --task, or --model" in refused("symmetry")
    assert "is no folder" in refused("report", tmp_path / "nowhere")
    connect = ["connect", "--task", task, a, b, "--out", tmp_path / "o"]
    for name, value in (
        ("recalibration", 0),
        ("plane-examples", 0),
        ("curve-rate", -1),
        ("curve-epochs", "nan"),
    ):
        assert name.replace("-", " ") in refused(*connect, f"--{name}", value)
    assert "batch-norm policy" in refused(*connect, "--batchnorm", "foo")
    assert "tolerance" in refused("barrier", "--task", task, a, b, "--tolerance", -1)
    assert "cannot write" in refused("connect", "--task", task, a, b, "--out", "/proc/nothing")
    assert not (tmp_path / "o").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    assert "is not empty" in refused("connect", "--task", task, a, b, "--out", tmp_path / "mine")
    assert run("nonsense").exit_code == 2


def test_a_fit_that_diverges_is_an_outcome(folder: Path, tmp_path: Path) -> None:
    a, b, out = folder / "1.safetensors", folder / "2.safetensors", tmp_path / "run"
    done = run("connect", "--task", f"{folder}/task.py", a, b, "--out", out, *FAST, "--curve-rate", "1e30")
    assert done.exit_code == 0, done.output
    text = " ".join(done.output.split())
    assert "The fit of the curve stopped after" in text
    assert "a smaller rate may help" in text
    assert (out / "report.html").exists()
    assert not (out / "curve").exists()


def test_damaged_runs_say_what_to_do(folder: Path, tmp_path: Path) -> None:
    a, b, out = folder / "1.safetensors", folder / "2.safetensors", tmp_path / "run"
    command = ["connect", "--task", f"{folder}/task.py", a, b, "--out", out, *FAST]
    assert run(*command).exit_code == 0
    whole = files(out)
    (out / "merged.safetensors").unlink()
    assert run(*command).exit_code == 0
    assert files(out) == whole, "what was deleted is made again"
    (out / "aligned.safetensors").write_bytes(whole["aligned.safetensors"][:500])
    assert "delete it and give the command again" in refused(*command)
    (out / "aligned.safetensors").unlink()
    (out / "records" / "naive-line.json.safetensors").unlink()
    assert "delete both and run the command again" in refused(*command)
    (out / "records" / "naive-line.json").unlink()
    assert run(*command).exit_code == 0
    assert files(out) == whole
    (out / "run.json").write_text("[]")
    assert "is damaged" in refused(*command)


def test_an_edited_task_file_is_another_run(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(TASK)
    a, b, out = folder / "1.safetensors", folder / "2.safetensors", tmp_path / "run"
    command = ["barrier", "--task", f"{tmp_path}/task.py", a, b, "--points", 3]
    assert run(*command).exit_code == 0
    command = ["connect", *command[1:], "--curve", "none", "--plane", 0, "--out", out]
    assert run(*command).exit_code == 0
    edited = TASK.replace('name="blobs")', 'name="blobs", error=lambda o, t: torch.zeros(len(t)))')
    (tmp_path / "task.py").write_text(edited)
    assert "holds another run (functions was" in refused(*command)


def test_nothing_beside_the_named_file_is_overwritten(folder: Path, tmp_path: Path) -> None:
    a = tmp_path / "a.safetensors"
    a.write_bytes((folder / "1.safetensors").read_bytes())
    before = a.read_bytes()
    task = f"{folder}/task.py"
    done = run(
        "barrier", "--task", task, a, folder / "2.safetensors", "--points", 3, "--out", tmp_path / "a.json"
    )
    assert done.exit_code == 0
    assert a.read_bytes() == before
    run(
        "connect",
        "--task",
        task,
        a,
        a,
        "--out",
        tmp_path / "r",
        "--curve",
        "none",
        "--plane",
        0,
        "--points",
        3,
    )
    assert "exists already" in refused("report", tmp_path / "r", "--out", a)
    assert a.read_bytes() == before


def test_a_task_with_its_own_forward_is_traced_through_it(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        TASK
        + """
class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = mlp()
    def encode(self, x):
        return self.inner(x)

data = {"train": task.train, "test": task.test}
own = Task(model=Encoder, **data, forward=lambda m, b: m.encode(b[0]), name="own/it")
fails = Task(model=lambda: 1 / 0, train=task.train, test=task.test)
double = Task(model=lambda: mlp().double(), train=task.train, test=task.test)
def frozen_model():
    return mlp().requires_grad_(False)
frozen = Task(model=frozen_model, train=task.train, test=task.test)
"""
    )
    own, one, two, out = (tmp_path / name for name in ("own.py", "1.pt", "2.pt", "out.pt"))
    for seed, file in ((1, one), (2, two)):
        assert run("train", "--task", f"{own}:own", "--seed", seed, "--out", file).exit_code == 0
    done = run("align", "--task", f"{own}:own", one, two, "--out", tmp_path / "aligned.pt")
    assert done.exit_code == 0, done.output
    assert "ZeroDivisionError" in refused("train", "--task", f"{own}:fails", "--out", out)
    assert "float32" in refused("train", "--task", f"{own}:double", "--out", out)
    assert "nothing to train" in refused("train", "--task", f"{own}:frozen", "--out", out)


def test_another_runs_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    task, a, b, out = (
        f"{folder}/task.py",
        folder / "1.safetensors",
        folder / "2.safetensors",
        tmp_path / "run",
    )
    options = ["--task", task, "--out", out, "--curve", "none", "--plane", 0, "--points", 3]
    assert run("connect", a, b, *options).exit_code == 0
    before = files(out)
    assert "holds another run (seed was 0, is now 5)" in refused("connect", a, b, *options, "--seed", 5)
    assert "holds a run of connect" in refused("curve", a, b, "--task", task, "--out", out)
    assert files(out) == before


def test_help_is_quick_to_import() -> None:
    heavy = ("torch", "numpy", "plotly", "scipy")
    code = f"import sys, isthmus.cli.main; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_ctrl_c_leaves_a_resumable_run(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "long.safetensors"
    command = [
        sys.executable,
        "-m",
        "isthmus",
        "train",
        "--task",
        f"{folder}/task.py",
        "--out",
        str(out),
        "--steps",
        "1000000",
    ]
    # A background job without job control inherits Ctrl-C ignored, and Python then leaves it so.
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    state = out.with_name(out.name + ".state")
    while not state.exists():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "give the same command again" in " ".join(told.split())
    assert "--steps 1000000" in told
    assert state.exists()
    assert not out.exists()


def test_kill_9_and_resume_give_identical_files(folder: Path, tmp_path: Path) -> None:
    """Five kills at scattered moments of `connect`, then the end: every file as in an undisturbed run."""
    a, b = folder / "1.safetensors", folder / "2.safetensors"
    options = ["--task", f"{folder}/task.py", "--points", "5", "--curve-steps", "4000", "--plane", "5"]

    def command(out: Path) -> list[str]:
        return [
            sys.executable,
            "-m",
            "isthmus",
            "connect",
            str(a),
            str(b),
            *options,
            "--out",
            str(out),
            "--quiet",
        ]

    whole = tmp_path / "run"
    subprocess.run(command(whole), check=True, cwd=tmp_path)
    expected = files(whole)
    shutil.rmtree(whole)
    kills = 0
    for number in range(5):
        process = subprocess.Popen(command(whole), cwd=tmp_path)
        try:
            process.wait(timeout=2.2 + 0.55 * number)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    subprocess.run(command(whole), check=True, cwd=tmp_path)
    assert kills >= 3, "the machine was too fast for the kills to hit"
    assert files(whole) == expected
