"""Curve fitting: the published objective and schedule, against a naive reference; exact resuming."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from conftest import Killed, Killer, mlp, random_weights
from isthmus import (
    AnalyticLandscape,
    Bezier,
    Chain,
    Connection,
    Landscape,
    Outcome,
    Segment,
    Task,
    Weights,
    barrier,
    fit_curve,
    load_controls,
    profile,
    save_controls,
    train,
)
from isthmus.connect.abstract import find_saddle
from isthmus.connect.curve import CurveSettings
from isthmus.errors import CheckpointError, RunError, SettingError
from isthmus.fanout import Serial
from isthmus.io.state import FileStore
from isthmus.landscape import Recipe
from isthmus.path.bend import bent
from isthmus.seeds import seeded


@pytest.fixture
def pair(task: Task) -> tuple[Weights, Weights]:
    return train(task, 1), train(task, 2)


def naive_fit(path, task: Task, settings: CurveSettings, steps: int) -> list[torch.Tensor]:
    """Written from the paper: autograd through θ(t), decay as a loss term, torch's own SGD."""
    inner = [nn.Parameter(w.vector.clone()) for w in path.controls[1:-1]]
    optimizer = torch.optim.SGD(inner, settings.rate, momentum=settings.momentum)
    module = mlp()
    names = [name for name, _ in module.named_parameters()]
    shapes = [p.shape for p in module.parameters()]
    t = torch.rand(steps, generator=seeded(settings.seed, "positions"), dtype=torch.float64)
    batches = task.split("train").stream(settings.seed, settings.batch)
    for step in range(steps):
        row = path.coefficients(t[step : step + 1])[0].float()
        vectors = [path.controls[0].vector, *inner, path.controls[-1].vector]
        theta = sum(c * v for c, v in zip(row, vectors, strict=True))
        pieces = theta.split([shape.numel() for shape in shapes])
        parameters = {n: p.view(s) for n, p, s in zip(names, pieces, shapes, strict=True)}
        x, y = next(batches)
        loss = functional.cross_entropy(torch.func.functional_call(module, parameters, x), y)
        loss = loss + 0.5 * settings.decay * theta.square().sum()
        done = step / steps
        share = 1.0 if done <= 0.5 else 1 - (done - 0.5) / 0.4 * 0.99 if done <= 0.9 else 0.01
        optimizer.param_groups[0]["lr"] = settings.rate * share
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [p.detach() for p in inner]


@pytest.mark.parametrize("kind", [Bezier, Chain])
@pytest.mark.parametrize("bends", [1, 3])
def test_the_fit_is_the_papers(task: Task, pair, kind, bends: int) -> None:
    start = kind.between(*pair, bends)
    found = fit_curve(start, Landscape(task), steps=30, rate=0.05, decay=0.01, seed=4)
    settings = CurveSettings(epochs=1, batch=32, rate=0.05, momentum=0.9, decay=0.01, seed=4)
    for got, expected in zip(found.path.controls[1:-1], naive_fit(start, task, settings, 30), strict=True):
        assert_close(got.vector, expected, rtol=1e-4, atol=1e-5)
    assert found.steps == 30
    assert found.outcome is Outcome.COMPLETED


def test_the_ends_stay_to_the_last_bit(task: Task, pair) -> None:
    found = fit_curve(Bezier.between(*pair), Landscape(task), steps=5)
    assert found.path(0).equal(pair[0])
    assert found.path(1).equal(pair[1])


def test_the_curve_goes_round_a_hill() -> None:
    """A hill of height 1 between two zeros of a valley that bends around it."""

    def ring(x: torch.Tensor) -> torch.Tensor:
        return (x.square().sum() - 1).square()

    ends = [Weights.from_state_dict({"x": torch.tensor(p)}) for p in ([-1.0, 0.0], [1.0, 0.0])]
    bends = [Weights.from_state_dict({"x": torch.tensor(p)}) for p in ([-0.5, 0.1], [0.0, 0.2], [0.5, 0.1])]
    land = AnalyticLandscape(ring)
    assert barrier(profile(Segment(*ends), land)).height == pytest.approx(1)
    found = fit_curve(Bezier((ends[0], *bends, ends[1])), land, steps=1500, rate=0.05, decay=0.0)
    assert barrier(profile(found.path, land)).height < 0.01
    assert found.length == pytest.approx(3.14159, rel=0.02)


def test_real_networks_are_joined(task: Task, pair) -> None:
    land = Landscape(task)
    before = barrier(profile(Segment(*pair), land, split="train")).height
    found = fit_curve(Bezier.between(*pair), land, epochs=30)
    after = barrier(profile(found.path, land, split="train")).height
    assert after < 0.35 * before
    assert len(found.history) == 30
    assert found.history[-1] < found.history[0]


def test_a_fit_resumes_to_the_identical_curve(task: Task, pair, tmp_path) -> None:
    start, land = Bezier.between(*pair), Landscape(task)
    whole = fit_curve(start, land, steps=40, seed=7)

    path = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        fit_curve(start, land, steps=40, seed=7, store=Killer(path, after=14))
    torch.manual_seed(123)
    resumed = fit_curve(start, land, steps=40, seed=7, store=FileStore(path))
    assert resumed.path.controls[1].equal(whole.path.controls[1])
    assert torch.equal(resumed.history, whole.history)
    with pytest.raises(RunError, match="belongs to other settings"):
        fit_curve(start, land, steps=40, seed=8, store=FileStore(path))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunError, match="is damaged"):
        fit_curve(start, land, steps=40, seed=7, store=FileStore(path))


def test_dropout_and_the_callers_randomness(image_task: Task) -> None:
    a, b = (Weights.from_module(image_task.build(seed)) for seed in (1, 2))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = fit_curve(Bezier.between(a, b), Landscape(image_task), steps=6)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(1)
    two = fit_curve(Bezier.between(a, b), Landscape(image_task), steps=6)
    assert one.path.controls[1].equal(two.path.controls[1])


def test_every_parameter_of_a_deep_network_gets_a_gradient(task: Task) -> None:
    """The published VGG16 curve silently drops five of thirteen convolutions; here none is dropped."""

    def deep() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 8), *[nn.Sequential(nn.Tanh(), nn.Linear(8, 8)) for _ in range(12)])

    deep_task = Task(model=deep, train=task.train, test=task.test)
    a, b = (Weights.from_module(deep_task.build(seed)) for seed in (1, 2))
    start = Bezier.between(a, b)
    found = fit_curve(start, Landscape(deep_task), steps=2, decay=0.0, rate=0.1)
    moved = found.path.controls[1] - start.controls[1]
    for name in moved:
        assert moved[name].abs().sum() > 0, name


def test_shares_of_data_parallel_ranks_add_up(task: Task, pair) -> None:
    """Two ranks, run one after the other, give the gradient of the whole batch."""

    class Rank:
        size = 2

        def __init__(self, rank: int) -> None:
            self.rank, self.seen = rank, []

        def mean(self, tensor: torch.Tensor) -> torch.Tensor:
            self.seen.append(tensor.clone())
            return tensor

    ranks = [Rank(0), Rank(1)]
    for rank in ranks:
        fit_curve(Bezier.between(*pair), Landscape(task), steps=1, world=rank)
    alone = Rank(0)
    alone.size = 1
    fit_curve(Bezier.between(*pair), Landscape(task), steps=1, world=alone)
    assert_close((ranks[0].seen[0] + ranks[1].seen[0]) / 2, alone.seen[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("kind", "longest"), [(Chain, 0.75), (Bezier, 0.5)])
def test_positions_are_uniform_in_arc_length(kind, longest: float) -> None:
    """Along a curve whose pieces are as 3 to 1, held still by a rate of nearly nothing.

    Kolmogorov–Smirnov: the largest gap between the shares of the length and a uniform law, times √n, is
    above 1.63 in one of a hundred samples. Positions uniform in t fail it.
    """
    places = ([0.0, 0.0], [6.0, 0.0], [6.0, 2.0])
    path = kind([Weights.from_state_dict({"x": torch.tensor(p)}) for p in places])
    visited: dict[str, list[torch.Tensor]] = {}
    for sampling in ("arc", "uniform"):
        seen = visited.setdefault(sampling, [])

        def look(x: torch.Tensor, seen: list[torch.Tensor] = seen) -> torch.Tensor:
            seen.append(x.detach().double().clone())
            return (x * 0).sum()

        land = AnalyticLandscape(look)
        fit_curve(path, land, steps=2000, rate=1e-12, decay=0.0, sampling=sampling, seed=2)
    grid = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    points = path.coefficients(grid) @ torch.stack([w.vector.double() for w in path.controls])
    along = path.distances(grid) / path.distances(grid)[-1]

    def statistic(seen: list[torch.Tensor]) -> float:
        nearest = torch.cdist(torch.stack(seen), points).argmin(dim=1)
        shares = along[nearest].sort().values
        ranks = torch.arange(1, len(shares) + 1, dtype=torch.float64) / len(shares)
        return float((shares - ranks).abs().max()) * len(shares) ** 0.5

    assert len(visited["arc"]) == 2000
    assert statistic(visited["arc"]) < 1.63
    assert statistic(visited["uniform"]) > 4


def test_arc_sampling_is_the_naive_one(task: Task, pair) -> None:
    """The length measured by hand every fifty steps; then the same step as ever."""
    path = Chain((pair[0], random_weights(pair[0], 3) * 0.3, pair[1]))
    found = fit_curve(path, Landscape(task), steps=60, rate=0.05, decay=0.01, seed=4, sampling="arc")
    shares = torch.rand(60, generator=seeded(4, "positions"), dtype=torch.float64)
    middle, velocity = path.controls[1].vector.clone(), torch.zeros_like(path.controls[1].vector)
    batches = task.split("train").stream(4, 32)
    land = Landscape(task)
    settings = CurveSettings(epochs=1, batch=32, rate=0.05)
    vector, gradient = torch.empty_like(middle), torch.empty_like(middle)
    with land.descent(vector, gradient) as slope:
        for step in range(60):
            if step % 50 == 0:
                legs = [float((middle - end.vector).norm()) for end in pair]
                turn = legs[0] / sum(legs)
            u = float(shares[step])
            t = 0.5 * u / turn if u < turn else 0.5 + 0.5 * (u - turn) / (1 - turn)
            row = path.coefficients(torch.tensor([t], dtype=torch.float64))[0].float()
            vector.copy_(row[0] * pair[0].vector + row[1] * middle + row[2] * pair[1].vector)
            gradient.copy_(0.01 * vector)
            slope(next(batches))
            velocity.mul_(0.9).add_(row[1] * gradient)
            middle.sub_(settings.rate_at(step, 60) * velocity)
    assert_close(found.path.controls[1].vector, middle, rtol=1e-3, atol=1e-4)


def test_arc_sampling_resumes_to_the_identical_curve(task: Task, pair, tmp_path) -> None:
    start, land = Bezier.between(*pair, 2), Landscape(task)
    whole = fit_curve(start, land, steps=130, seed=7, sampling="arc")
    path = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        fit_curve(start, land, steps=130, seed=7, sampling="arc", store=Killer(path, after=77))
    resumed = fit_curve(start, land, steps=130, seed=7, sampling="arc", store=FileStore(path))
    assert all(x.equal(y) for x, y in zip(resumed.path.controls, whole.path.controls, strict=True))
    with pytest.raises(RunError, match="belongs to other settings"):
        fit_curve(start, land, steps=130, seed=7, store=FileStore(path))


def ridge(x: torch.Tensor) -> torch.Tensor:
    """A hill between two minima at (±1, 0); the pass at (0, −1) is lower than the one at (0, 1)."""
    return (x.square().sum() - 1).square() + 0.4 * x[1] + 0.4 * x[1].square()


def test_restarts_find_the_lower_side() -> None:
    """From a symmetrical start on the ridge the fit stays there; a bend leads off; the lowest is kept."""

    def symmetrical(x: torch.Tensor) -> torch.Tensor:
        return (x.square().sum() - 1).square()

    ends = [Weights.from_state_dict({"x": torch.tensor(p)}) for p in ([-1.0, 0.0], [1.0, 0.0])]
    start, given = Chain.between(*ends, 3), {"steps": 1200, "rate": 0.02, "decay": 0.0}
    land = AnalyticLandscape(symmetrical)
    alone = fit_curve(start, land, **given)
    assert find_saddle(alone.path, land).loss > 0.9
    several = fit_curve(start, land, restarts=3, **given)
    assert several.saddle.loss < 0.2
    assert several.settings["start"] in (1, 2)

    tilted = AnalyticLandscape(ridge)
    sides = [fit_curve(bent(start, 0.1, 0, number), tilted, **given).path for number in range(3)]
    kept = fit_curve(start, tilted, restarts=3, **given)
    heights = [find_saddle(side, tilted, 11).loss for side in sides]
    assert kept.saddle.loss == min(heights)
    lowest = sides[heights.index(min(heights))]
    assert all(x.equal(y) for x, y in zip(kept.path.controls, lowest.controls, strict=True))
    assert kept.settings["start"] == heights.index(min(heights))


def test_bent_starts_leave_what_training_holds_still(task: Task) -> None:
    def held() -> nn.Module:
        module = mlp()
        module[0].weight.requires_grad_(False)
        return module

    class Keeping(Serial):
        def map(self, function, items):
            kept.extend(super().map(function, items))
            return kept

    kept: list[Connection] = []
    problem = Task(model=held, train=task.train, test=task.test, recipe=Recipe(epochs=1, batch=32))
    a = train(problem, 1)
    b = random_weights(a, 7)
    b["0.weight"].copy_(a["0.weight"])
    fit_curve(
        Bezier.between(a, b), Landscape(problem), steps=10, restarts=3, spread=0.5, decay=0.1,
        fanout=Keeping(),
    )  # fmt: skip
    assert len(kept) == 3
    for found in kept:
        bend = found.path.controls[1]
        assert_close(bend["0.weight"], a["0.weight"])
        assert not torch.equal(bend["2.weight"], kept[0].path.controls[1]["2.weight"]) or found is kept[0]


def test_restarts_are_deterministic_and_resume(task: Task, pair, tmp_path) -> None:
    start, land = Bezier.between(*pair), Landscape(task)
    whole = fit_curve(start, land, steps=30, restarts=3, spread=0.3, seed=1)
    torch.manual_seed(5)
    again = fit_curve(start, land, steps=30, restarts=3, spread=0.3, seed=1, fanout=Serial())
    assert again.path.controls[1].equal(whole.path.controls[1])
    assert again.saddle == whole.saddle
    store = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        fit_curve(
            start, land, steps=30, restarts=3, spread=0.3, seed=1, store=Killer(store, after=50, every=7)
        )
    resumed = fit_curve(start, land, steps=30, restarts=3, spread=0.3, seed=1, store=FileStore(store))
    assert resumed.path.controls[1].equal(whole.path.controls[1])
    assert resumed.saddle == whole.saddle
    alone = fit_curve(start, land, steps=30, seed=1)
    assert whole.saddle.loss <= find_saddle(alone.path, land, 11).loss
    assert whole.settings["restarts"] == 3


def test_any_loss_of_each_example_is_descended() -> None:
    """Regression by a loss of one's own: the first step's gradient is that loss's, and the curve is lower."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(128, 8, generator=generator)
    y = x[:, :3].sin()

    def absolute(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (output - target).abs().pow(1.5).sum(dim=1)

    def off(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return ((output - target).abs().amax(dim=1) > 0.5).float()

    recipe = Recipe(epochs=30, batch=32, rate=0.02, weight_decay=0.0)
    task = Task(model=mlp, train=(x, y), test=(x, y), loss=absolute, error=off, recipe=recipe)
    ends = train(task, 1), train(task, 2)
    start, land = Bezier.between(*ends), Landscape(task)

    step = fit_curve(start, land, steps=1, rate=1.0, momentum=0.0, decay=0.0, batch=128)
    t = torch.rand(1, generator=seeded(0, "positions"), dtype=torch.float64)
    row = start.coefficients(t)[0].float()
    theta = sum(c * w.vector for c, w in zip(row, start.controls, strict=True)).requires_grad_()
    module = mlp()
    sizes = [p.numel() for p in module.parameters()]
    pieces = zip(module.named_parameters(), theta.split(sizes), strict=True)
    parameters = {name: piece.view(own.shape) for (name, own), piece in pieces}
    absolute(torch.func.functional_call(module, parameters, x), y).mean().backward()
    moved = step.path.controls[1].vector - start.controls[1].vector
    assert_close(moved, -row[1] * theta.grad, rtol=1e-4, atol=1e-6)

    found = fit_curve(start, land, epochs=60, restarts=3)
    assert found.saddle.loss < 0.7 * find_saddle(Segment(*ends), land).loss


def test_divergence_is_an_outcome(task: Task, pair) -> None:
    found = fit_curve(Bezier.between(*pair), Landscape(task), steps=400, rate=1e6)
    assert found.outcome is Outcome.DIVERGED
    assert found.steps < 400


def test_controls_on_disk(task: Task, pair, tmp_path) -> None:
    path = fit_curve(Bezier.between(*pair, 2), Landscape(task), steps=3).path
    save_controls(path, tmp_path / "curve")
    again = load_controls(tmp_path / "curve", "bezier")
    assert all(one.equal(two) for one, two in zip(path.controls, again.controls, strict=True))
    with pytest.raises(CheckpointError, match="holds no controls"):
        load_controls(tmp_path, "bezier")


def test_defaults_come_from_the_recipe_as_published() -> None:
    settings = CurveSettings.from_recipe(Recipe(epochs=7, batch=9, rate=0.1, weight_decay=3e-4))
    assert (settings.epochs, settings.batch, settings.decay) == (7, 9, 3e-4)
    assert settings.rate == pytest.approx(0.03)
    rates = [settings.rate_at(step, 1000) / settings.rate for step in (0, 499, 700, 900, 999)]
    assert rates == pytest.approx([1, 1, 1 - 0.5 * 0.99, 0.01, 0.01], abs=1e-9)


def test_refusals(task: Task, pair) -> None:
    with pytest.raises(SettingError, match="no inner control to train"):
        fit_curve(Segment(*pair), Landscape(task))
    with pytest.raises(SettingError, match="rate must be above 0"):
        fit_curve(Bezier.between(*pair), Landscape(task), rate=-1)
    with pytest.raises(SettingError, match="give epochs, or a number of steps"):
        fit_curve(Bezier.between(*pair), Landscape(task), epochs=1, steps=3)
    with pytest.raises(SettingError, match="momentum"):
        fit_curve(Bezier.between(random_weights(pair[0], 1), pair[1]), Landscape(task), momentum=1.0)
    with pytest.raises(SettingError, match="sampling='uniform' or 'arc'"):
        fit_curve(Bezier.between(*pair), Landscape(task), sampling="length")
    with pytest.raises(SettingError, match="at least 1 restart and a spread above 0"):
        fit_curve(Bezier.between(*pair), Landscape(task), restarts=0)
    with pytest.raises(SettingError, match="a spread above 0"):
        fit_curve(Bezier.between(*pair), Landscape(task), restarts=2, spread=-1.0)
