"""Fast geometric ensembling: the published schedule, and snapshots where the rate is lowest."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from conftest import Killed, Killer
from isthmus import Landscape, Task, Weights, scores, train
from isthmus.errors import RunError, SettingError, TaskError
from isthmus.experiments.cyclical import CyclicalSettings, train_cyclical
from isthmus.io.state import FileStore


def published(i: int, c: int, high: float, low: float) -> float:
    """The rate of iteration i = 1, 2, …: Garipov et al. 2018, section 4, word for word."""
    t = ((i - 1) % c + 1) / c
    if t <= 0.5:
        return (1 - 2 * t) * high + 2 * t * low
    return (2 - 2 * t) * low + (2 * t - 1) * high


def test_the_rate_is_the_published_one() -> None:
    for period in (2, 4, 10, 34):
        settings = CyclicalSettings(3, period, 0.05, 0.0005)
        found = [settings.rate_at(step) for step in range(settings.steps)]
        assert found == pytest.approx([published(i + 1, period, 0.05, 0.0005) for i in range(settings.steps)])


def test_snapshots_are_at_the_minima_of_the_rate() -> None:
    settings = CyclicalSettings(4, 6, 1.0, 0.1)
    assert settings.steps == 3 * 6 + 3
    at = [step for step in range(settings.steps) if settings.snapshot_after(step)]
    assert at == [2, 8, 14, 20]
    rates = [settings.rate_at(step) for step in range(settings.steps)]
    assert [step for step, rate in enumerate(rates) if rate == min(rates)] == at
    assert max(rates) == pytest.approx(1.0)
    assert [rates[5], rates[11]] == pytest.approx([1.0, 1.0]), "the highest rate, midway between two"


def test_it_is_a_plain_loop(task: Task) -> None:
    start = train(task, 0, steps=10)
    found = train_cyclical(task, start, cycles=2, period=4, high=0.05, low=0.01, seed=3)
    module = start.to_module(task.build(0))
    twin = torch.optim.SGD(module.parameters(), 0.1, 0.9, weight_decay=1e-4)
    batches = task.split("train").stream(3, 32)
    kept = []
    for step in range(6):
        twin.param_groups[0]["lr"] = published(step + 1, 4, 0.05, 0.01)
        x, y = next(batches)
        twin.zero_grad()
        functional.cross_entropy(module(x), y).backward()
        twin.step()
        if step in (1, 5):
            kept.append(Weights.from_module(module))
    assert found.steps == (2, 6)
    assert len(found.snapshots) == 2
    for mine, theirs in zip(found.snapshots, kept, strict=True):
        assert_close(mine.vector, theirs.vector, rtol=1e-4, atol=1e-6)


def test_defaults_come_from_the_recipe(task: Task) -> None:
    start = train(task, 0, steps=2)
    found = train_cyclical(task, start, cycles=2)
    settings = found.settings
    assert (settings.period, settings.high, settings.low) == (16, 0.05, pytest.approx(0.01))
    assert found.history.shape == (3,)
    assert_close(start.vector, train(task, 0, steps=2).vector, rtol=0, atol=0)


def test_snapshots_are_good_and_differ(task: Task) -> None:
    start = train(task, 0)
    found = train_cyclical(task, start, cycles=3, seed=1)
    assert all(scores(each, Landscape(task))[1].accuracy > 0.85 for each in found.snapshots)
    first, second, third = found.snapshots
    assert first.distance(second) > 0
    assert second.distance(third) > 0


def test_seeds(image_task: Task) -> None:
    start = train(image_task, 1)
    one, two, other = (train_cyclical(image_task, start, cycles=2, seed=seed) for seed in (1, 1, 2))
    assert all(a.equal(b) for a, b in zip(one.snapshots, two.snapshots, strict=True))
    assert not one.snapshots[0].equal(other.snapshots[0])
    assert int(one.snapshots[1].buffers["bn.num_batches_tracked"]) == 8 + 8 + 4, "batch norm saw every step"


@pytest.mark.parametrize("after", [2, 4, 5, 6, 10])
def test_a_kill_changes_nothing(image_task: Task, tmp_path: Path, after: int) -> None:
    start = train(image_task, 1)
    whole = train_cyclical(image_task, start, cycles=3, period=4)
    path = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        train_cyclical(image_task, start, cycles=3, period=4, store=Killer(path, after=after))
    torch.manual_seed(9)
    store = FileStore(path)
    again = train_cyclical(image_task, start, cycles=3, period=4, store=store)
    assert all(a.equal(b) for a, b in zip(whole.snapshots, again.snapshots, strict=True))
    assert torch.equal(whole.history, again.history)
    store.clear()
    assert list(tmp_path.iterdir()) == []


def test_a_lost_snapshot_is_a_sentence(image_task: Task, tmp_path: Path) -> None:
    start = train(image_task, 1)
    path = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        train_cyclical(image_task, start, cycles=3, period=4, store=Killer(path, after=5))
    FileStore(path).part("snapshot-1").clear()
    with pytest.raises(RunError, match="snapshot 1 is missing; delete the state"):
        train_cyclical(image_task, start, cycles=3, period=4, store=FileStore(path))


def test_a_state_of_other_settings_is_refused(image_task: Task, tmp_path: Path) -> None:
    start = train(image_task, 1)
    path = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        train_cyclical(image_task, start, cycles=3, period=4, store=Killer(path, after=5))
    with pytest.raises(RunError, match="other settings"):
        train_cyclical(image_task, start, cycles=3, period=4, low=0.02, store=FileStore(path))


def test_refusals(task: Task) -> None:
    start = train(task, 0, steps=1)
    with pytest.raises(SettingError, match="at least 1 cycle, got 0"):
        train_cyclical(task, start, cycles=0)
    with pytest.raises(SettingError, match=r"even number of steps, at least 2 .*got 5"):
        train_cyclical(task, start, period=5)
    with pytest.raises(SettingError, match=r"0 < low <= high, got low 0\.2 and high 0\.1"):
        train_cyclical(task, start, high=0.1, low=0.2)
    with pytest.raises(TaskError, match=r"diverged at step .*lower the highest rate \(1e\+20\)"):
        train_cyclical(task, start, high=1e20, low=1e20)
