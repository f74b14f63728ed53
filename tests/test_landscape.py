"""Evaluations against a plain loop, on tensors, mappings and loaders; batch-norm policies."""

import functools
import pickle
import random

import numpy
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from conftest import Convolutional, blobs, mlp, random_weights
from isthmus import AnalyticLandscape, Bezier, Landscape, Plane, Recipe, Segment, Task, Weights
from isthmus.errors import DataError, SettingError, TaskError
from isthmus.landscape import LoaderExamples, TensorExamples
from isthmus.repair.batchnorm import recalibrate


def points(task: Task, count: int = 3) -> list[Weights]:
    return [Weights.from_module(task.build(seed)) for seed in range(count)]


def naive(task: Task, weights: Weights, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    module = weights.to_module(task.build(0)).eval()
    x, y = getattr(task, split)
    with torch.no_grad():
        output = module(x)
    return functional.cross_entropy(output, y, reduction="none"), (output.argmax(1) != y).float()


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("batch", [7, 64, 10_000])
def test_evaluation_is_the_plain_loop(task: Task, split: str, batch: int) -> None:
    found = Landscape(task, batch=batch).evaluate(points(task), split)
    for row, weights in enumerate(points(task)):
        loss, error = naive(task, weights, split)
        assert_close(found.loss[row], loss, rtol=1e-5, atol=1e-6)
        assert_close(found.error[row], error)
    assert found.policy == "none" if hasattr(found, "policy") else found.batchnorm == "none"


def test_a_loader_gives_what_tensors_give(task: Task) -> None:
    x, y = task.test
    loader = DataLoader(TensorDataset(x, y), batch_size=33)
    by_loader = Task(model=mlp, train=loader, test=LoaderExamples(loader, memory=4000))
    assert len(list(by_loader.split("test").chunks(1))) > 1, "several chunks, or this tests nothing"
    found = Landscape(by_loader).evaluate(points(task), "test")
    expected = Landscape(task).evaluate(points(task), "test")
    assert_close(found.loss, expected.loss)
    assert Landscape(by_loader, limit=50).evaluate(points(task)).examples == 50


def test_a_shuffling_loader_streams_reproducibly_and_resumes() -> None:
    x = torch.arange(40.0)[:, None]
    loader = DataLoader(TensorDataset(x, torch.zeros(40)), batch_size=8, shuffle=True)
    examples = LoaderExamples(loader)
    whole = [b[0] for _, b in zip(range(12), examples.stream(3, 8), strict=False)]
    torch.manual_seed(77)
    again = [b[0] for _, b in zip(range(5), examples.stream(3, 8, start=7), strict=False)]
    for one, two in zip(whole[7:], again, strict=True):
        assert torch.equal(one, two)
    assert not torch.equal(whole[0], whole[5]), "the next pass has another order"


def test_a_tensor_stream_resumes_with_its_augmentation() -> None:
    examples = TensorExamples(blobs(50, 0))

    def noisy(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return x + torch.randn(x.shape, generator=generator)

    whole = [b[0] for _, b in zip(range(9), examples.stream(1, 16, augment=noisy), strict=False)]
    rest = [b[0] for _, b in zip(range(4), examples.stream(1, 16, 5, noisy), strict=False)]
    for one, two in zip(whole[5:], rest, strict=True):
        assert torch.equal(one, two)


def test_fewer_examples_are_a_fixed_random_subset() -> None:
    """The first of a set that is sorted by class would be one class."""
    y = torch.arange(10).repeat_interleave(100)
    examples = TensorExamples((y.float()[:, None], y))
    ((batch,),) = examples.chunks(1000, 100)
    assert len(batch[1].unique()) == 10
    ((again,),) = examples.chunks(1000, 100)
    assert torch.equal(batch[1], again[1])


def test_mappings_and_sequences() -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(11, 5)

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return self.embed(input_ids)

    ids = torch.randint(11, (6, 4))
    labels = torch.randint(5, (6, 4))
    labels[:, 3] = -100
    data = {"input_ids": ids, "labels": labels}
    task = Task(model=Tagger, train=data, test=data)
    weights = Weights.from_module(task.build(1))
    found = Landscape(task).evaluate([weights])
    scores = weights.to_module(Tagger())(ids)
    expected = functional.cross_entropy(
        scores[:, :3].reshape(-1, 5), labels[:, :3].reshape(-1), reduction="none"
    )
    assert_close(found.loss[0], expected.view(6, 3).mean(1).detach())
    assert set(task.example) == {"input_ids"}


def test_keep_gives_the_ends_to_the_last_bit(image_task: Task) -> None:
    a, b = points(image_task, 2)
    a = a.with_buffers(a.buffers | {"bn.running_mean": torch.randn(6)})
    found = Landscape(image_task, batchnorm="keep").evaluate(Segment(a, b).at(torch.tensor([0.0, 0.4, 1.0])))
    x, _ = image_task.test
    for row, end in ((0, a), (2, b)):
        with torch.no_grad():
            output = end.to_module(Convolutional()).eval()(x)
        expected = functional.cross_entropy(output, image_task.test[1], reduction="none")
        assert torch.equal(found.loss[row], expected)
    nearest = Segment(a, b)(0.4).with_buffers(a.buffers)
    assert_close(found.loss[1], Landscape(image_task, batchnorm="keep").evaluate([nearest]).loss[0])


def test_interpolate_blends_the_ends_buffers(image_task: Task) -> None:
    a, b = points(image_task, 2)
    a = a.with_buffers(a.buffers | {"bn.running_var": torch.full((6,), 3.0)})
    bend = random_weights(a, 3)
    land = Landscape(image_task, batchnorm="interpolate")
    settled = land.settled(Segment(a, b).at(torch.tensor([0.25])))
    assert_close(settled.buffers["bn.running_var"], torch.full((6,), 0.75 * 3 + 0.25))
    on_curve = land.settled(Bezier((a, bend, b)).at(torch.tensor([0.5])))
    assert_close(on_curve.buffers["bn.running_var"], torch.full((6,), 2.0))
    assert settled.buffers["bn.num_batches_tracked"].dtype == torch.int64


def test_recalibrate_measures_at_every_point(image_task: Task) -> None:
    a, b = points(image_task, 2)
    land = Landscape(image_task, recalibration=50, batch=20)
    settled = land.settled(Segment(a, b).at(torch.tensor([0.5])))
    module = Segment(a, b)(0.5).to_module(Convolutional())
    (batches,) = image_task.split("train").chunks(20, 50)
    assert [len(y) for _, y in batches] == [20, 20, 10]
    expected = recalibrate(module, batches, lambda m, batch: m(batch[0]))
    assert_close(settled.buffers["bn.running_mean"], expected["bn.running_mean"])
    found = land.evaluate(Segment(a, b).at(torch.tensor([0.5])))
    kept = Landscape(image_task, batchnorm="keep").evaluate([settled])
    assert_close(found.loss, kept.loss)
    again = land.evaluate(Segment(a, b).at(torch.tensor([0.5])))
    assert torch.equal(found.loss, again.loss)


def test_points_without_buffers_need_a_path(image_task: Task) -> None:
    a, b = points(image_task, 2)
    for policy in ("keep", "interpolate"):
        with pytest.raises(SettingError, match=r"evaluate path\.at"):
            Landscape(image_task, batchnorm=policy).evaluate([(a + b) * 0.5])


def test_gradients_are_those_of_the_mean_loss(task: Task) -> None:
    weights = points(task, 1)[0]
    gradient = torch.zeros_like(weights.vector)
    with Landscape(task).descent(weights.vector, gradient) as step:
        loss = step(task.train)
    module = weights.to_module(task.build(0))
    expected = functional.cross_entropy(module(task.train[0]), task.train[1])
    expected.backward()
    assert loss == pytest.approx(expected.item())
    assert_close(gradient, torch.cat([p.grad.reshape(-1) for p in module.parameters()]))


def test_a_fanout_changes_nothing(task: Task) -> None:
    class Two:
        workers = 2

        def map(self, function, items):
            return [function(item) for item in reversed(list(items))][::-1]

    path = Segment(*points(task, 2)).at(torch.linspace(0, 1, 7))
    assert torch.equal(Landscape(task).evaluate(path, fanout=Two()).loss, Landscape(task).evaluate(path).loss)


def test_analytic() -> None:
    land = AnalyticLandscape(lambda x: x.square().sum())
    point = Weights.from_state_dict({"x": torch.tensor([3.0, 4.0])})
    assert land.evaluate([point]).mean_loss.tolist() == [25.0]
    gradient = torch.ones(2)
    with land.descent(point.vector, gradient) as step:
        assert step(()) == 25
    assert gradient.tolist() == [7, 9]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((torch.zeros(0, 3), torch.zeros(0)), "are empty"),
        ((torch.zeros(5, 3),), "no labels: expected a pair"),
        (torch.zeros(5, 3), "no labels: expected a pair"),
        ((torch.zeros(5, 3), torch.zeros(4)), r"differ in their number of examples: \[4, 5\]"),
        (([1, 2], [3, 4]), "must be tensors, got list, list"),
        (iter([1]), "can be read only once"),
        (3, "got int"),
    ],
)
def test_bad_data_are_refused(data: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Task(model=mlp, train=data, test=blobs(5, 1))


def test_what_is_no_list_of_points_is_refused(task: Task) -> None:
    one, land = points(task, 1)[0], Landscape(task)
    for asked in (land.evaluate, lambda given: next(land.predictions(given))):
        with pytest.raises(SettingError, match="no points to evaluate"):
            asked([])
        with pytest.raises(SettingError, match="give \\[weights\\]"):
            asked(one)


def test_bad_tasks_and_settings_are_refused(task: Task) -> None:
    weights = points(task, 1)
    wrong = Task(model=mlp, train=task.train, test=task.test, loss=functional.cross_entropy)
    with pytest.raises(TaskError, match=r"shape \[200\], got \[\] \(pass reduction='none'"):
        Landscape(wrong).evaluate(weights)
    with pytest.raises(TaskError, match=r"must return an nn\.Module, got int"):
        Task(model=lambda: 3, train=task.train, test=task.test).build()
    with pytest.raises(SettingError, match="recalibrate, interpolate, keep"):
        Landscape(task, batchnorm="reset")
    with pytest.raises(SettingError, match="'train' or 'test', got 'valid'"):
        Landscape(task).evaluate(weights, "valid")
    with pytest.raises(SettingError, match="no points"):
        Landscape(task).evaluate([])
    empty = Task(model=mlp, train=task.train, test=LoaderExamples([]))
    with pytest.raises(DataError, match="gives no batches"):
        Landscape(empty).evaluate(weights)
    unlabelled = Task(model=mlp, train=task.train, test=[torch.zeros(2, 8)] * 9)
    with pytest.raises(DataError, match="batches without labels"):
        Landscape(unlabelled).evaluate(weights)


def test_building_is_seeded_and_leaves_the_global_generator_alone(task: Task) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, two, other = (Weights.from_module(task.build(seed)) for seed in (4, 4, 5))
    assert torch.equal(before, torch.get_rng_state())
    assert one.equal(two)
    assert not one.equal(other)
    given = mlp()
    instance = Task(model=given, train=task.train, test=task.test)
    assert Weights.from_module(instance.build(4)).equal(Weights.from_module(instance.build(4)))
    assert not Weights.from_module(instance.build(4)).equal(Weights.from_module(given))


def test_samplers_and_transforms_with_generators_of_their_own_are_reproducible() -> None:
    class Noisy(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 24

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            noise = random.random() + numpy.random.rand() + float(torch.rand(()))  # noqa: NPY002
            return torch.tensor([float(index), noise]), index % 3

    sampler = torch.utils.data.RandomSampler(range(24), generator=torch.Generator())
    examples = LoaderExamples(DataLoader(Noisy(), batch_size=8, sampler=sampler))
    random.seed(1)
    state = random.getstate()
    first = [b[0] for chunk in examples.chunks(8) for b in chunk]
    second = [b[0] for chunk in examples.chunks(8) for b in chunk]
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))
    assert random.getstate() == state
    assert (
        examples.fingerprint == LoaderExamples(DataLoader(Noisy(), batch_size=8, sampler=sampler)).fingerprint
    )


def test_off_the_path_no_variance_is_negative(image_task: Task) -> None:
    a, b = points(image_task, 2)
    third = random_weights(a, 3)
    for policy in ("interpolate", "keep"):
        land = Landscape(image_task, batchnorm=policy)
        far = Plane(a, b, third).at(torch.tensor([[-5.0, 40.0], [30.0, -3.0]]))
        for index in range(2):
            assert bool((land.settled(far, index).buffers["bn.running_var"] >= 0).all())


def test_regression_asks_for_loss_and_error(task: Task) -> None:
    x = task.train[0]
    target = x[:, :3].clone()
    weights = points(task, 1)
    bare = Task(model=mlp, train=(x, target), test=(x, target))
    with pytest.raises(TaskError, match="the default loss is for classification"):
        Landscape(bare).evaluate(weights)

    def squares(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (output - target).square().mean(1)

    half = Task(model=mlp, train=(x, target), test=(x, target), loss=squares)
    with pytest.raises(TaskError, match="the default error is for classification"):
        Landscape(half).evaluate(weights)
    off = Task(
        model=mlp,
        train=(x, target),
        test=(x, target),
        loss=squares,
        error=lambda o, t: (squares(o, t) > 1).float(),
    )
    assert Landscape(off).evaluate(weights).mean_loss > 0


def test_labels_out_of_range_are_named(task: Task) -> None:
    wrong = Task(model=mlp, train=task.train, test=(task.test[0], task.test[1] + 5))
    with pytest.raises(DataError, match=r"values 5 to 7"):
        Landscape(wrong).evaluate(points(task, 1))


def test_a_used_landscape_can_be_sent_to_a_worker(image_task: Task) -> None:
    land = Landscape(Task(model=Convolutional, train=image_task.train, test=image_task.test))
    a, b = points(image_task, 2)
    found = land.evaluate(Segment(a, b).at(torch.tensor([0.5])))
    again = pickle.loads(pickle.dumps(land)).evaluate(Segment(a, b).at(torch.tensor([0.5])))
    assert torch.equal(found.loss, again.loss)


def test_identity_sees_data_recipe_model_and_code(task: Task) -> None:
    def other(**changes: object) -> dict:
        given = {"model": mlp, "train": task.train, "test": task.test, "recipe": task.recipe, **changes}
        return Task(**given).identity

    assert other() == task.identity
    assert other(train=blobs(256, 3)) != task.identity
    assert other(recipe=Recipe(epochs=7)) != task.identity
    assert other(model=lambda: nn.Sequential(nn.Linear(8, 3))) != task.identity
    one, two = (
        other(loss=lambda o, t, k=k: k * functional.cross_entropy(o, t, reduction="none")) for k in (1, 2)
    )
    assert one != two
    assert other(loss=lambda o, t: o.sum(1)) != other(loss=lambda o, t: o.sum(1) + 1)
    partials = [Recipe(augment=functools.partial(torch.add, other=k)) for k in (1, 1, 2)]
    assert other(recipe=partials[0]) == other(recipe=partials[1]) != other(recipe=partials[2])
