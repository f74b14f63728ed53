"""Training: against a plain PyTorch loop, and exact about randomness."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from conftest import Killed, Killer, blobs, mlp
from isthmus import Landscape, Recipe, Task, Weights, load_weights, save_weights, scores, train
from isthmus.errors import RunError, SettingError, TaskError
from isthmus.io.state import FileStore


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_training_is_a_plain_loop(task: Task, optimizer: str) -> None:
    recipe = Recipe(epochs=2, batch=32, rate=0.01, optimizer=optimizer, weight_decay=0.01, nesterov=True)
    task = Task(model=mlp, train=task.train, test=task.test, recipe=recipe)
    module = task.build(3)
    if optimizer == "sgd":
        twin = torch.optim.SGD(module.parameters(), 0.01, 0.9, weight_decay=0.01, nesterov=True)
    else:
        twin = torch.optim.AdamW(module.parameters(), 0.01, weight_decay=0.01)
    batches = task.split("train").stream(3, 32)
    for step in range(16):
        twin.param_groups[0]["lr"] = recipe.rate_at(step, 16)
        x, y = next(batches)
        twin.zero_grad()
        functional.cross_entropy(module(x), y).backward()
        twin.step()
    assert_close(train(task, 3).vector, Weights.from_module(module).vector, rtol=1e-4, atol=1e-6)


def test_it_learns(task: Task) -> None:
    found = scores(train(task, 0), Landscape(task))
    assert [s.split for s in found] == ["train", "test"]
    assert found[1].accuracy > 0.85


def test_seeds(image_task: Task) -> None:
    one, two, other = train(image_task, 1), train(image_task, 1), train(image_task, 2)
    assert one.equal(two)
    assert not one.equal(other)
    assert int(one.buffers["bn.num_batches_tracked"]) == 8, "batch norm saw every step"


def test_an_interrupted_training_resumes_to_equal_bits(image_task: Task, tmp_path) -> None:
    whole = train(image_task, 1)

    path = tmp_path / "state"
    with pytest.raises(Killed):
        train(image_task, 1, store=Killer(path, after=5))
    torch.manual_seed(9)
    assert train(image_task, 1, store=FileStore(path)).equal(whole)


def test_frozen_parameters_stay() -> None:
    def build() -> nn.Module:
        module = mlp()
        module[0].weight.requires_grad_(False)
        return module

    task = Task(model=build, train=blobs(64, 1), test=blobs(8, 2), recipe=Recipe(batch=32, weight_decay=0.1))
    start = Weights.from_module(task.build(0))
    found = train(task, 0, steps=4)
    assert torch.equal(found["0.weight"], start["0.weight"])
    assert not torch.equal(found["0.bias"], start["0.bias"])


def test_steps_and_schedules() -> None:
    step = Recipe(rate=1.0, schedule="step", warmup=0.1)
    assert [step.rate_at(k, 100) for k in (0, 9, 10, 54, 56, 99)] == pytest.approx(
        [1 / 11, 10 / 11, 1, 1, 0.1, 0.01]
    )
    cosine = Recipe(rate=1.0)
    assert cosine.rate_at(0, 100) == 1
    assert cosine.rate_at(50, 100) == pytest.approx(0.5)


def test_refusals(task: Task) -> None:
    with pytest.raises(SettingError, match="at least 1 step"):
        train(task, 0, steps=0)
    with pytest.raises(SettingError, match=r"Recipe\.rate must be above 0"):
        Recipe(rate=0)
    with pytest.raises(SettingError, match="'cosine', 'constant' or 'step'"):
        Recipe(schedule="linear")
    wild = Task(model=mlp, train=task.train, test=task.test, recipe=Recipe(rate=1e30, epochs=50))
    with pytest.raises(TaskError, match="diverged at step"):
        train(wild, 0)

    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, :3] * self.w

    with pytest.raises(TaskError, match="a function that builds the model"):
        train(Task(model=Bare(), train=task.train, test=task.test), 0)


def test_a_state_of_another_loss_or_data_is_refused(task: Task, tmp_path) -> None:
    def doubled(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return 2 * functional.cross_entropy(output, target, reduction="none")

    with pytest.raises(Killed):
        train(task, 1, store=Killer(tmp_path / "state", after=4))
    for change in ({"loss": doubled}, {"train": blobs(256, 9)}):
        given = {"model": mlp, "train": task.train, "test": task.test, "recipe": task.recipe, **change}
        with pytest.raises(RunError, match="belongs to other settings"):
            train(Task(**given), 1, store=FileStore(tmp_path / "state"))


def test_narrow_dtypes_come_back_as_they_are_saved(task: Task, tmp_path) -> None:
    def build() -> nn.Module:
        return mlp().to(torch.bfloat16)

    x, y = task.train
    narrow = Task(model=build, train=(x.bfloat16(), y), test=(x.bfloat16(), y), recipe=task.recipe)
    weights = train(narrow, 1, steps=5)
    assert load_weights(save_weights(weights, tmp_path / "w.safetensors")).equal(weights)


def test_batch_norm_on_single_examples_is_told_in_a_sentence():
    """torch raises a ValueError there, which is no programming error of ours."""
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    data = (torch.randn(6, 3), torch.randint(2, (6,)))
    task = Task(model=net, train=data, test=data, recipe=Recipe(epochs=1, batch=1))
    with pytest.raises(TaskError, match="more than 1 value per channel"):
        train(task, 1)
