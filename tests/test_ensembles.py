"""Ensembles: against a naive loop and hand computations, and the laws of averages."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from conftest import blobs, mlp, random_weights
from isthmus import Bezier, Landscape, Recipe, Segment, Task, Weights, scores, train
from isthmus.ensembles import AVERAGE, BEST, ENSEMBLE, SINGLE, Ensemble, ensemble, weight_average
from isthmus.ensembles.calibration import binned, calibration_error
from isthmus.errors import LayoutError, SettingError, TaskError
from isthmus.io.records import read_record, records_equal, write_record
from isthmus.landscape import AnalyticLandscape, LoaderExamples
from isthmus.landscape import network as network_file
from isthmus.path import Plane
from isthmus.path.simplex import Simplex
from isthmus.tasks.chars import transformer


@pytest.fixture
def trained(task: Task) -> list[Weights]:
    return [train(task, seed, steps=20) for seed in (0, 1, 2)]


def probabilities(task: Task, models: Iterable[Weights], split: str = "test") -> Tensor:
    """Softmax outputs of every model, by a plain loop, shape (models, examples, classes)."""
    x, _ = task.test if split == "test" else task.train
    found = []
    for weights in models:
        module = weights.to_module(task.build(0)).eval()
        with torch.no_grad():
            found.append(module(x).double().softmax(dim=1))
    return torch.stack(found)


def naive_calibration(p: Tensor, y: Tensor, bins: int = 15) -> float:
    """Guo et al. 2017, eq. 3, one example after the other."""
    groups: list[list[tuple[float, float]]] = [[] for _ in range(bins)]
    for row, label in zip(p.tolist(), y.tolist(), strict=True):
        confidence = max(row)
        number = next(m for m in range(bins) if confidence <= (m + 1) / bins)
        groups[number].append((confidence, float(row.index(confidence) == label)))
    total = 0.0
    for group in filter(None, groups):
        accuracy = sum(right for _, right in group) / len(group)
        total += len(group) * abs(accuracy - sum(c for c, _ in group) / len(group))
    return total / len(y)


@pytest.mark.parametrize("split", ["train", "test"])
def test_it_is_the_naive_average(task: Task, trained: list[Weights], split: str) -> None:
    found = ensemble(trained, Landscape(task, batch=37))
    _, y = task.test if split == "test" else task.train
    each = probabilities(task, trained, split)
    every = {f"member {k + 1}": p for k, p in enumerate(each)}
    every[ENSEMBLE] = each.mean(dim=0)
    every[AVERAGE] = probabilities(task, [(trained[0] + trained[1] + trained[2]) / 3], split)[0]
    for name, p in every.items():
        quality = found.quality(name, split)
        assert quality.examples == len(y)
        nll = -p[torch.arange(len(y)), y].log().mean()
        assert quality.loss.value == pytest.approx(float(nll), rel=1e-6)
        assert quality.error.value == pytest.approx(float((p.argmax(dim=1) != y).double().mean()))
        assert quality.calibration.value == pytest.approx(naive_calibration(p, y), abs=1e-6)
    chosen = each.argmax(dim=2)
    apart = [(chosen[i] != chosen[j]).double().mean() for i, j in ((0, 1), (0, 2), (1, 2))]
    assert found.disagreement[split] == pytest.approx(float(sum(apart)) / 3)


def test_the_loss_is_that_of_scikit_learn(task: Task, trained: list[Weights]) -> None:
    log_loss = pytest.importorskip("sklearn.metrics").log_loss
    found = ensemble(trained, Landscape(task), splits=["test"])
    p = probabilities(task, trained).mean(dim=0)
    assert found.quality().loss.value == pytest.approx(log_loss(task.test[1], p.numpy()), rel=1e-9)


def test_members_are_what_evaluate_says(image_task: Task) -> None:
    models = [train(image_task, seed) for seed in (0, 1)]
    for policy in ("keep", "recalibrate"):
        landscape = Landscape(image_task, batchnorm=policy, batch=16)
        found = ensemble(models, landscape, splits=["test"])
        plain = landscape.evaluate(models)
        for index in (0, 1):
            quality = found.quality(f"member {index + 1}")
            assert quality.loss.value == float(plain.mean_loss[index])
            assert quality.error.value == float(plain.mean_error[index])
        assert found.batchnorm == policy


def test_batch_norm_of_the_weight_average_is_measured_anew(image_task: Task) -> None:
    models = [train(image_task, seed) for seed in (0, 1)]
    kept = Landscape(image_task, batchnorm="keep")
    found = ensemble(models, kept, splits=["test"])
    anew = Landscape(image_task).evaluate([(models[0] + models[1]) / 2])
    assert found.quality(AVERAGE).loss.value == pytest.approx(float(anew.mean_loss[0]), rel=1e-5)
    average = weight_average(models, kept)
    assert_close(average.vector, (models[0].vector + models[1].vector) / 2)
    assert float(kept.evaluate([average]).mean_loss[0]) == pytest.approx(float(anew.mean_loss[0]), rel=1e-5)


def same(one: Ensemble, two: Ensemble, names: dict[str, str], tolerance: float = 1e-9) -> None:
    """Values and intervals of the named predictors are alike."""
    for mine, theirs in names.items():
        a, b = one.quality(mine), two.quality(theirs)
        for of in ("loss", "error", "calibration"):
            x, y = getattr(a, of), getattr(b, of)
            assert (x.value, x.low, x.high) == pytest.approx((y.value, y.low, y.high), abs=tolerance), of


def test_one_model_is_its_own_ensemble(task: Task, trained: list[Weights]) -> None:
    found = ensemble(trained[:1], Landscape(task))
    same(found, found, {ENSEMBLE: "member 1", AVERAGE: "member 1", SINGLE: "member 1"}, 1e-6)
    gain = found.gain(BEST)
    assert (gain.error.value, gain.error.low, gain.error.high) == (0, 0, 0)
    assert found.disagreement == {"train": 0.0, "test": 0.0}


def test_identical_members_are_the_member(task: Task, trained: list[Weights]) -> None:
    found = ensemble([trained[0]] * 3, Landscape(task))
    same(found, found, {ENSEMBLE: "member 1", SINGLE: "member 2"}, 1e-6)
    assert found.disagreement["test"] == 0


def test_the_order_does_not_matter(task: Task, trained: list[Weights]) -> None:
    one = ensemble(trained, Landscape(task))
    two = ensemble(trained[::-1], Landscape(task))
    same(one, two, {ENSEMBLE: ENSEMBLE, SINGLE: SINGLE, "member 1": "member 3"})
    same(one, two, {AVERAGE: AVERAGE}, 1e-5)
    assert (
        one.names[one.best]
        == {"member 1": "member 3", "member 2": "member 2", "member 3": "member 1"}[two.names[two.best]]
    )


def test_the_loss_is_at_most_the_mean_of_the_members(task: Task) -> None:
    like = task.network.reference
    points = [random_weights(like, seed) for seed in range(5)]
    found = ensemble(points, Landscape(task))
    for split in found.splits:
        assert found.gain(SINGLE, split).loss.low >= 0, "Jensen holds in every resample"


def test_intervals_are_paired(task: Task, trained: list[Weights]) -> None:
    found = ensemble(trained, Landscape(task))
    gain, mine, best = found.gain(BEST), found.quality(), found.quality(BEST)
    assert gain.loss.value == pytest.approx(best.loss.value - mine.loss.value)
    assert gain.loss.low <= gain.loss.value <= gain.loss.high
    alone = (mine.loss.high - mine.loss.low) + (best.loss.high - best.loss.low)
    assert gain.loss.high - gain.loss.low < 0.5 * alone, "the examples are shared"
    narrow = ensemble(trained, Landscape(task), level=0.5).quality()
    assert narrow.loss.high - narrow.loss.low < 0.6 * (mine.loss.high - mine.loss.low)
    for quality in found.qualities:
        for estimate in (quality.loss, quality.error, quality.calibration):
            assert estimate.low <= estimate.value <= estimate.high
        assert quality.calibration.low >= 0


def test_the_intervals_of_one_predictor_are_those_of_its_score(task: Task, trained: list[Weights]) -> None:
    found = ensemble(trained, Landscape(task), splits=["test"]).quality("member 2")
    (_, alone) = scores(trained[1], Landscape(task))
    for of in ("loss", "error"):
        estimate = getattr(found, of)
        assert (estimate.low, estimate.high) == pytest.approx(
            (getattr(alone, f"{of}_low"), getattr(alone, f"{of}_high"))
        )


def test_the_interval_of_a_difference_is_the_normal_one(task: Task, trained: list[Weights]) -> None:
    found = ensemble(trained, Landscape(task), resamples=4000, splits=["test"])
    p = probabilities(task, trained)
    y = task.test[1]
    losses = -torch.stack([*p, p.mean(dim=0)])[:, torch.arange(len(y)), y].log()
    each = losses[found.best] - losses[3]
    margin = 1.96 * float(each.std()) / len(each) ** 0.5
    gain = found.gain(BEST).loss
    assert gain.value == pytest.approx(float(each.mean()), rel=1e-4)
    assert gain.high - gain.low == pytest.approx(2 * margin, rel=0.08)


def test_seeds(task: Task, trained: list[Weights]) -> None:
    one, two, other = (ensemble(trained, Landscape(task), seed=seed) for seed in (1, 1, 2))
    assert records_equal(one, two)
    assert one.gain().loss.low != other.gain().loss.low


@dataclass(frozen=True)
class Pieces:
    """A fan-out of several workers, one after the other."""

    workers: int

    def map(self, function: Callable, items: Iterable) -> list:
        return [function(item) for item in items]


@pytest.mark.parametrize("workers", [2, 3, 40])
def test_a_fan_out_gives_the_same_bits(image_task: Task, workers: int) -> None:
    models = [train(image_task, seed, steps=3) for seed in (0, 1)]
    landscape = Landscape(image_task, batch=8)
    alone = ensemble(models, landscape)
    assert records_equal(alone, ensemble(models, landscape, fanout=Pieces(workers)))


def test_points_of_a_path(task: Task, trained: list[Weights]) -> None:
    path = Bezier((trained[0], trained[1] * 1.5, trained[2]))
    landscape = Landscape(task)
    t = torch.linspace(0, 1, 4, dtype=torch.float64)
    found = ensemble(path, landscape, points=4)
    assert_close(found.t, t)
    assert found.names == ("t = 0", "t = 0.333", "t = 0.667", "t = 1")
    same(found, ensemble([path(float(x)) for x in t], landscape), {ENSEMBLE: ENSEMBLE})
    same(found, ensemble([path(float(x)) for x in t], landscape), {AVERAGE: AVERAGE}, 1e-5)
    assert records_equal(found, ensemble(path.at(t), landscape))
    single = ensemble(path, landscape, points=1)
    assert single.t.tolist() == [0.5]


def test_points_even_in_arc_length(task: Task, trained: list[Weights]) -> None:
    path = Bezier((trained[0], trained[0] + (trained[2] - trained[0]) * 0.1, trained[2]))
    t = ensemble(path, Landscape(task), points=5, spacing="arc", splits=["test"]).t
    assert (float(t[0]), float(t[-1])) == (0, 1)
    fine = torch.linspace(0, 1, 4001, dtype=torch.float64)
    along = path.distances(fine)
    reached = torch.stack([along[(fine - x).abs().argmin()] for x in t])
    assert_close(reached.diff(), torch.full((4,), float(along[-1]) / 4).double(), rtol=5e-3, atol=0)
    still = ensemble(
        Segment(trained[0], trained[0]), Landscape(task), points=3, spacing="arc", splits=["test"]
    )
    assert still.t.tolist() == [0, 0.5, 1]


def test_points_of_a_simplex(task: Task, trained: list[Weights]) -> None:
    simplex = Simplex(tuple(trained))
    found = ensemble(simplex, Landscape(task), points=4, seed=5, splits=["test"])
    again = ensemble(list(simplex.sample(4, 5)), Landscape(task), seed=5, splits=["test"])
    same(found, again, {ENSEMBLE: ENSEMBLE})
    assert len(found.names) == 4
    assert len(found.t) == 0


def test_dictionary_batches() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = mlp()

        def forward(self, x: Tensor) -> Tensor:
            return self.part(x)

    (x, y), (u, v) = blobs(64, 1), blobs(50, 2)
    data = {"train": {"x": x, "labels": y}, "test": {"x": u, "labels": v}}
    named = Task(model=Named, **data)
    plain = Task(model=Named, train=(x, y), test=(u, v))
    points = [random_weights(named.network.reference, seed) for seed in (1, 2)]
    assert records_equal(ensemble(points, Landscape(named)), ensemble(points, Landscape(plain)))


def test_tokens_are_averaged_one_by_one() -> None:
    task = transformer(context=8, width=8, heads=2, layers=1)
    landscape = Landscape(task, limit=20, batch=7)
    points = [task.network.reference, random_weights(task.network.reference, 1) * 0.1]
    found = ensemble(points, landscape, splits=["test"])
    batches = [batch for chunk in task.split("test").chunks(7, 20) for batch in chunk]
    outputs = []
    for weights in points:
        module = weights.to_module(task.build(0)).eval()
        with torch.no_grad():
            outputs.append(torch.cat([module(x) for x, _ in batches]).double().softmax(dim=-1))
    p, y = torch.stack(outputs).mean(dim=0), torch.cat([target for _, target in batches])
    nll = -p.gather(-1, y[..., None]).log().mean()
    assert found.quality().examples == 20
    assert found.quality().loss.value == pytest.approx(float(nll), rel=1e-6)
    assert found.quality().error.value == pytest.approx(float((p.argmax(dim=-1) != y).double().mean()))
    flat = calibration_error(p.flatten(0, 1), y.flatten())
    assert found.quality().calibration.value == pytest.approx(flat, abs=1e-6)


def test_positions_without_a_target_do_not_count() -> None:
    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)

    generator = torch.Generator().manual_seed(3)
    x = torch.randn(10, 5, 4, generator=generator)
    y = torch.randint(3, (10, 5), generator=generator)
    y[:, 3:] = -100
    y[0, 1:] = -100
    task = Task(model=Rows, train=(x, y), test=(x, y))
    points = [random_weights(task.network.reference, seed) for seed in (1, 2, 3)]
    found = ensemble(points, Landscape(task), splits=["test"])
    quality = found.quality()
    plain = Landscape(task).evaluate(points)
    assert found.quality("member 2").loss.value == float(plain.mean_loss[1])
    curve = quality.reliability
    right = curve.share * curve.accuracy.nan_to_num()
    assert float(right.sum()) == pytest.approx(1 - quality.error.value)
    assert float(curve.share.sum()) == pytest.approx(1)


def test_scores_of_the_last_positions() -> None:
    """A causal model has no scores of the first token: as in the default loss, the targets are cut."""

    class Next(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)[:, :-1]

    generator = torch.Generator().manual_seed(3)
    x, y = torch.randn(10, 5, 4, generator=generator), torch.randint(3, (10, 5), generator=generator)
    task = Task(model=Next, train=(x, y), test=(x, y))
    points = [random_weights(task.network.reference, seed) for seed in (1, 2)]
    found = ensemble(points, Landscape(task), splits=["test"])
    with torch.no_grad():
        p = torch.stack([w.to_module(Next())(x).double().softmax(dim=-1) for w in points]).mean(dim=0)
    target = y[:, 1:]
    assert found.quality().error.value == pytest.approx(float((p.argmax(dim=-1) != target).double().mean()))
    flat = calibration_error(p.flatten(0, 1), target.flatten())
    assert found.quality().calibration.value == pytest.approx(flat, abs=1e-6)
    apart = (points[0].to_module(Next())(x).argmax(-1) != points[1].to_module(Next())(x).argmax(-1)).double()
    assert found.disagreement["test"] == pytest.approx(float(apart.mean()))


def test_a_loader_is_read_in_parts(task: Task, trained: list[Weights]) -> None:
    loaders = {
        name: LoaderExamples(DataLoader(TensorDataset(*data), batch_size=16), name, memory=1000)
        for name, data in (("train", task.train), ("test", task.test))
    }
    loaded = Task(model=mlp, **loaders)
    assert len(list(loaded.split("test").chunks(16))) > 3, "several parts"
    plain, found = ensemble(trained, Landscape(task, batch=16)), ensemble(trained, Landscape(loaded))
    assert records_equal(plain, found)
    assert records_equal(found, ensemble(trained, Landscape(loaded), fanout=Pieces(3)))


def test_pictures_of_classes() -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(6, 1, 4, 4, generator=generator)
    y = torch.randint(3, (6, 4, 4), generator=generator)
    task = Task(model=lambda: nn.Conv2d(1, 3, 3, padding=1), train=(x, y), test=(x, y))
    points = [random_weights(task.network.reference, seed) for seed in (1, 2)]
    found = ensemble(points, Landscape(task), splits=["test"])
    modules = [w.to_module(nn.Conv2d(1, 3, 3, padding=1)) for w in points]
    p = torch.stack([m(x).detach().double().softmax(dim=1) for m in modules]).mean(dim=0)
    nll = functional.nll_loss(p.log(), y)
    assert found.quality().loss.value == pytest.approx(float(nll), rel=1e-6)
    flat = calibration_error(p.movedim(1, -1).flatten(0, 2), y.flatten())
    assert found.quality().calibration.value == pytest.approx(flat, abs=1e-6)


def regression() -> Task:
    def squares(output: Tensor, target: Tensor) -> Tensor:
        return (output[:, 0] - target).square()

    def far(output: Tensor, target: Tensor) -> Tensor:
        return ((output[:, 0] - target).abs() > 0.5).float()

    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(1))
    data = (x, x.sum(dim=1))
    return Task(model=lambda: nn.Linear(2, 1), train=data, test=data, loss=squares, error=far, name="sums")


def test_outputs_of_a_regression_are_averaged() -> None:
    task = regression()
    x, y = task.test
    points = [random_weights(task.network.reference, seed) for seed in (1, 2)]
    found = ensemble(points, Landscape(task), averaged="outputs")
    outputs = torch.stack([w.to_module(nn.Linear(2, 1))(x)[:, 0].detach() for w in points])
    mean = outputs.mean(dim=0)
    assert found.quality().loss.value == pytest.approx(float((mean - y).square().mean()), rel=1e-5)
    assert found.quality().calibration is None
    assert found.gain(BEST).calibration is None
    assert found.disagreement["test"] != found.disagreement["test"], "not a number"
    same_model = found.quality(AVERAGE).loss.value
    assert same_model == pytest.approx(found.quality().loss.value, rel=1e-5), "a linear model"


def test_class_scores_with_a_loss_of_its_own(task: Task, trained: list[Weights]) -> None:
    def doubled(output: Tensor, target: Tensor) -> Tensor:
        return 2 * functional.cross_entropy(output, target, torch.ones(3), reduction="none")

    own = Task(model=mlp, train=task.train, test=task.test, loss=doubled, name="own")
    plain = ensemble(trained, Landscape(task))
    found = ensemble(trained, Landscape(own), averaged="probabilities")
    assert found.quality().loss.value == pytest.approx(2 * plain.quality().loss.value, rel=1e-5)
    assert found.quality().calibration.value == pytest.approx(plain.quality().calibration.value)


def test_only_some_batches_are_held(task: Task, trained: list[Weights], monkeypatch) -> None:
    whole = ensemble(trained, Landscape(task, batch=16))
    monkeypatch.setattr(network_file, "_OUTPUTS_HELD", 2 * 16 * 3 * 4)
    landscape = Landscape(task, batch=16)
    turns = [(found.point, len(found.batches)) for found in landscape.predictions(trained, "test")]
    assert turns[:6] == [(0, 2), (1, 2), (2, 2), (0, 2), (1, 2), (2, 2)]
    assert sum(count for point, count in turns if point == 0) == 13
    assert max(count for _, count in turns) == 2
    assert records_equal(whole, ensemble(trained, landscape))


def test_shares_of_the_batches_add_up(task: Task, trained: list[Weights]) -> None:
    landscape = Landscape(task, batch=16)
    whole = [out for found in landscape.predictions(trained[:1]) for out in found.outputs]
    shares = [
        [out for found in landscape.predictions(trained[:1], share=(k, 3)) for out in found.outputs]
        for k in range(3)
    ]
    assert [len(share) for share in shares] == [5, 4, 4]
    for at, output in enumerate(whole):
        assert torch.equal(output, shares[at % 3][at // 3])


def test_bins_are_closed_on_the_right() -> None:
    confidence = torch.tensor([[0.2], [0.2000001], [1.0], [0.0]], dtype=torch.float64)
    right = torch.tensor([[True], [False], [True], [False]])
    found = binned(confidence, right, torch.ones(4, 1, dtype=torch.bool), 5)
    assert found.sums[:, 0].tolist() == [2, 1, 0, 0, 1]
    assert_close(found.gap[0], torch.tensor([0.8, 0, 0, 0, 0], dtype=torch.float64))


def test_a_calibrated_model_has_a_small_error() -> None:
    generator = torch.Generator().manual_seed(1)
    first = 0.5 + 0.5 * torch.rand(200_000, generator=generator, dtype=torch.float64)
    p = torch.stack([first, 1 - first], dim=1)
    y = (torch.rand(200_000, generator=generator) > first).long()
    assert calibration_error(p, y) < 0.005
    assert calibration_error(p, 1 - y) == pytest.approx(0.5, abs=0.005)
    few = sum(calibration_error(p[i : i + 50], y[i : i + 50]) for i in range(0, 5000, 50)) / 100
    assert few > 0.08, "the documented bias of few examples"


def test_a_calibration_error_is_not_negative(task: Task, trained: list[Weights]) -> None:
    found = ensemble(trained, Landscape(task, limit=12))
    assert min(quality.calibration.low for quality in found.qualities) == 0, "cut off there"
    assert min(found.gain(over).calibration.low for over in (BEST, SINGLE)) < 0, "a difference is not"


def test_a_diverged_member_is_told(task: Task, trained: list[Weights]) -> None:
    lost = Weights(trained[0].layout, torch.full_like(trained[0].vector, float("nan")))
    found = ensemble([trained[0], lost], Landscape(task))
    assert found.names[found.best] == "member 1"
    loss = found.quality("member 2").loss
    assert loss.value != loss.value
    assert loss.low != loss.low
    assert found.quality("member 1").loss.low <= found.quality("member 1").loss.value


def test_the_record_comes_back(task: Task, trained: list[Weights], tmp_path) -> None:
    found = ensemble(trained, Landscape(task))
    write_record(found, tmp_path / "ensemble.json")
    assert records_equal(read_record(tmp_path / "ensemble.json", Ensemble), found)
    assert "Ensemble(3 members, 200 test examples: loss" in repr(found)


def test_an_ensemble_of_trained_models_is_better(task: Task) -> None:
    hard = Task(model=mlp, train=blobs(60, 1), test=blobs(2000, 2), recipe=Recipe(epochs=40, batch=20))
    models = [train(hard, seed) for seed in range(5)]
    found = ensemble(models, Landscape(hard), splits=["test"])
    assert found.gain(SINGLE).loss.low > 0
    assert found.quality().loss.value < found.quality(SINGLE).loss.value
    assert found.quality(AVERAGE).error.value > found.quality().error.value, "different minima"


def test_refusals(task: Task, trained: list[Weights]) -> None:
    here = Landscape(task)
    with pytest.raises(SettingError, match="expected a Landscape of a task, got AnalyticLandscape"):
        ensemble(trained, AnalyticLandscape(lambda x: x.sum()))
    with pytest.raises(SettingError, match="no models to average; give at least one"):
        ensemble([], here)
    with pytest.raises(
        SettingError, match=r"takes a list of models or a path; for one model, give \[weights\]"
    ):
        ensemble(trained[0], here)
    with pytest.raises(SettingError, match="at least 1 point, spaced 'uniform' or 'arc', got 0"):
        ensemble(Segment(*trained[:2]), here, points=0)
    with pytest.raises(SettingError, match="got 5 and 'even'"):
        ensemble(Segment(*trained[:2]), here, spacing="even")
    with pytest.raises(SettingError, match="a plane has no positions of its own"):
        ensemble(Plane(*trained), here)
    with pytest.raises(SettingError, match="at least 1 bin, 0 < level < 1 and at least 2 resamples, got 0"):
        ensemble(trained, here, bins=0)
    with pytest.raises(SettingError, match="no split to measure"):
        ensemble(trained, here, splits=[])
    with pytest.raises(SettingError, match="'train' or 'test', got 'val'"):
        ensemble(trained, here, splits=["val"])
    with pytest.raises(SettingError, match="expected 3 different names of members"):
        ensemble(trained, here, names=["a", "a", "b"])
    with pytest.raises(SettingError, match="averaged='probabilities' or 'outputs', got 'votes'"):
        ensemble(trained, here, averaged="votes")
    with pytest.raises(LayoutError):
        ensemble([trained[0], Weights.from_module(nn.Linear(2, 2))], here)


def test_what_cannot_be_averaged_is_a_sentence(task: Task, trained: list[Weights]) -> None:
    sums = regression()
    points = [sums.network.reference]
    with pytest.raises(SettingError, match="the task sums has a loss of its own"):
        ensemble(points, Landscape(sums))
    with pytest.raises(
        TaskError, match=r"needs class scores.*targets of torch.float32: say averaged='outputs'"
    ):
        ensemble(points, Landscape(sums), averaged="probabilities")

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = mlp()

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.part(x), x

    own = Task(
        model=Pair, train=task.train, test=task.test, name="pair",
        loss=lambda output, target: functional.cross_entropy(output[0], target, reduction="none"),
        error=lambda output, target: (output[0].argmax(dim=1) != target).float(),
    )  # fmt: skip
    with pytest.raises(TaskError, match=r"the model of pair gives tuple: pass the task forward="):
        ensemble([own.network.reference], Landscape(own), averaged="probabilities")
