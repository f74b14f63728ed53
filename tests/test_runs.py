"""Records and run folders: whole or not there, equal when read back, never another run's."""

import json
import math
from dataclasses import dataclass
from enum import Enum

import pytest
import torch

from conftest import mlp
from isthmus import Weights
from isthmus.errors import RunError
from isthmus.io.records import plain, read_record, records_equal, write_record
from isthmus.io.runs import Run
from isthmus.io.state import FileStore


class Colour(Enum):
    RED = "a sentence"


@dataclass(frozen=True, eq=False)
class Inner:
    values: torch.Tensor
    maybe: int | None
    colour: Colour


@dataclass(frozen=True, eq=False)
class Outer:
    inner: tuple[Inner, ...]
    pair: tuple[str, float]
    table: dict[str, float]
    none: Inner | None


@dataclass(frozen=True)
class Other:
    x: int


def example() -> Outer:
    inner = Inner(torch.tensor([1.0, math.nan]), None, Colour.RED)
    second = Inner(torch.arange(3).view(1, 3), 4, Colour.RED)
    return Outer((inner, second), ("ü <&>", math.inf), {"a": -math.inf, "b": 0.1}, None)


def test_records_come_back_equal(tmp_path) -> None:
    path = tmp_path / "deep" / "record.json"
    write_record(example(), path)
    assert records_equal(read_record(path, Outer), example())
    assert json.loads(path.read_text())["record"] == "Outer"
    first = path.read_bytes(), path.with_name(path.name + ".safetensors").read_bytes()
    write_record(example(), path)
    assert first == (path.read_bytes(), path.with_name(path.name + ".safetensors").read_bytes())
    assert plain(example())["pair"] == ["ü <&>", None]
    json.dumps(plain(example()), allow_nan=False)


def test_differences_are_seen() -> None:
    one = example()
    assert not records_equal(one, Outer(one.inner[:1], one.pair, one.table, None))
    assert not records_equal(one.inner[0], Inner(torch.tensor([1.0, 2.0]), None, Colour.RED))
    assert not records_equal(one.inner[0], Inner(one.inner[0].values.double(), None, Colour.RED))


def test_damaged_or_other_records_are_refused(tmp_path) -> None:
    path = tmp_path / "record.json"
    write_record(Other(3), path)
    with pytest.raises(RunError, match="holds the record Other, expected Outer"):
        read_record(path, Outer)
    path.write_text(path.read_text()[:20])
    with pytest.raises(RunError, match="not a readable record"):
        read_record(path, Other)
    with pytest.raises(RunError, match="not a readable record"):
        read_record(tmp_path / "nothing.json", Other)
    with pytest.raises(TypeError, match="cannot hold a object"):
        write_record(Outer((), ("", 0.0), {}, object()), path)


def test_a_run_computes_once(tmp_path) -> None:
    run = Run.open(tmp_path / "run", "test", {"seed": 1})
    count = []

    def compute() -> Other:
        count.append(1)
        return Other(5)

    assert run.record("a", Other, compute) == run.record("a", Other, compute) == Other(5)
    assert len(count) == 1
    weights = Weights.from_module(mlp())
    assert run.weights("w", lambda: weights).equal(weights)
    run.close()
    again = Run.open(tmp_path / "run", "test", {"seed": 1})
    assert again.weights("w", lambda: 1 / 0).equal(weights)
    again.close()
    assert not (tmp_path / "run" / ".lock").exists()


def test_other_runs_and_other_folders_are_refused(tmp_path) -> None:
    Run.open(tmp_path / "run", "connect", {"seed": 1, "a": "x"}).close()
    with pytest.raises(RunError, match="holds another run \\(seed was 1, is now 2\\); choose another --out"):
        Run.open(tmp_path / "run", "connect", {"seed": 2, "a": "x"})
    with pytest.raises(RunError, match="holds a run of connect, not of demo"):
        Run.open(tmp_path / "run", "demo", {"seed": 1, "a": "x"})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    with pytest.raises(RunError, match="is not empty and holds no run"):
        Run.open(tmp_path / "mine", "demo", {})
    assert [f.name for f in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    with pytest.raises(RunError, match="is a file; a folder is needed"):
        Run.open(tmp_path / "mine" / "thesis.tex", "demo", {})
    (tmp_path / "run" / "run.json").write_text("{")
    with pytest.raises(RunError, match="is damaged"):
        Run.open(tmp_path / "run", "connect", {})


def test_a_run_in_use_is_refused_and_leftovers_are_swept(tmp_path) -> None:
    run = Run.open(tmp_path / "run", "test", {})
    with pytest.raises(RunError, match="another process is working in"):
        Run.open(tmp_path / "run", "test", {})
    (tmp_path / "run" / ".w.safetensors.abc.tmp").write_text("half")
    run.close()
    Run.open(tmp_path / "run", "test", {}).close()
    assert [f.name for f in (tmp_path / "run").iterdir()] == ["run.json"]


def test_a_cleared_store_leaves_nothing_of_its_pieces(tmp_path) -> None:
    """Pieces of pieces, and what a write that was killed has left beside them."""
    store = FileStore(tmp_path / "state.safetensors")
    inner = store.part("bead-0").part("training")
    for each in (store, store.part("bead-0"), inner):
        each.save("mine", {"x": torch.zeros(2)}, {})
    inner.path.with_name(".training.abc.tmp").write_bytes(b"half of a st")
    (tmp_path / "another.json").write_text("{}")
    store.clear()
    assert [file.name for file in tmp_path.iterdir()] == ["another.json"]
    store.clear()
