"""Dynamic string sampling: certificates on surfaces with known passes, and the published counter-example."""

import itertools
import math
import pickle
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from analytic_surfaces import DOUBLE_WELL, EGG_CARTON, MUELLER_BROWN, SURFACES, Surface
from conftest import Killed, Killer, blobs
from isthmus import (
    AnalyticLandscape,
    Connection,
    Landscape,
    Outcome,
    Recipe,
    Segment,
    Task,
    Weights,
    barrier,
    profile,
    train,
)
from isthmus.connect.abstract import find_saddle
from isthmus.connect.string import StringConnector, require_ends_below, string_sampling
from isthmus.errors import RunError, SettingError
from isthmus.io.state import FileStore


@pytest.fixture(scope="module")
def wide_task() -> Task:
    """Blobs and a network wide enough to be connected at a low level."""
    recipe = Recipe(epochs=6, batch=32, rate=0.1, weight_decay=1e-4)
    return Task(model=wide, train=blobs(256, 1), test=blobs(200, 2), recipe=recipe, name="wide blobs")


def wide() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))


@pytest.fixture(scope="module")
def ends(wide_task: Task) -> tuple[Weights, Weights]:
    return train(wide_task, 1), train(wide_task, 2)


def point(*values: float) -> Weights:
    return Weights.from_state_dict({"x": torch.tensor(values, dtype=torch.float64)})


def dense_maximum(path, landscape, points: int = 4001) -> float:
    return find_saddle(path, landscape, points).loss


# -- the contract of every connector --------------------------------------------------------------


def test_the_ends_are_kept_to_the_last_bit(ends, wide_task) -> None:
    found = StringConnector(times=1.5, steps=600).connect(ends, Landscape(wide_task))
    assert found.path(0).equal(ends[0])
    assert found.path(1).equal(ends[1])


def test_the_path_is_lower_than_the_line_and_below_the_level(ends, wide_task) -> None:
    land = Landscape(wide_task)
    found = StringConnector(times=1.5, steps=600).connect(ends, land)
    assert found.outcome is Outcome.CONNECTED_AT_LEVEL
    line, path = (barrier(profile(p, land, split="train")).height for p in (Segment(*ends), found.path))
    assert path < 0.8 * line
    worse = float(land.evaluate(ends, "train").mean_loss.max())
    assert found.settings["level"] == pytest.approx(1.5 * worse)
    assert found.saddle is not None
    assert found.saddle.loss <= 1.02 * 1.5 * worse
    assert found.saddle.points == 1 + len(found.path.controls) - 1 + 23 * (len(found.path.controls) - 1)
    assert dense_maximum(found.path, land, 1001) < 1.05 * 1.5 * worse
    assert found.length >= found.endpoint_distance * (1 - 1e-9)


def test_the_same_seed_gives_the_same_chain_whatever_the_callers_randomness(ends, wide_task) -> None:
    one = StringConnector(seed=3).connect(ends, Landscape(wide_task))
    torch.manual_seed(99)
    two = StringConnector(seed=3).connect(ends, Landscape(wide_task))
    other = StringConnector(seed=4).connect(ends, Landscape(wide_task))
    assert all(x.equal(y) for x, y in zip(one.path.controls, two.path.controls, strict=True))
    assert one.saddle == two.saddle
    assert not one.path.controls[1].equal(other.path.controls[1])


def test_it_runs_on_any_landscape() -> None:
    land = AnalyticLandscape(lambda x: x.square().sum())
    found = StringConnector().connect([point(1.0, 0.0), point(0.0, 1.0)], land)
    assert found.outcome is Outcome.CONNECTED_AT_LEVEL
    assert len(found.path.controls) == 2, "the line lies below: nothing is inserted"
    assert found.steps == 0
    assert found.length == pytest.approx(found.endpoint_distance)


# -- kills ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(ends, wide_task) -> Connection:
    return string_sampling(*ends, Landscape(wide_task), times=1.2, steps=600)


@pytest.mark.parametrize("after", [1, 40, 120])
def test_a_kill_changes_nothing(ends, wide_task, tmp_path, whole, after: int) -> None:
    land = Landscape(wide_task)
    assert whole.steps > 130
    assert len(whole.path.controls) > 4
    with pytest.raises(Killed):
        string_sampling(
            *ends, land, times=1.2, steps=600, store=Killer(tmp_path / "state", after=after, every=7)
        )
    store = FileStore(tmp_path / "state")
    resumed = string_sampling(*ends, land, times=1.2, steps=600, store=store)
    assert all(x.equal(y) for x, y in zip(resumed.path.controls, whole.path.controls, strict=True))
    assert torch.equal(resumed.history, whole.history)
    assert (resumed.saddle, resumed.steps, resumed.settings) == (whole.saddle, whole.steps, whole.settings)
    store.clear()
    assert not list(tmp_path.iterdir())


def test_what_is_finished_is_not_computed_again(ends, wide_task, tmp_path) -> None:
    store = FileStore(tmp_path / "state")
    whole = string_sampling(*ends, Landscape(wide_task), store=store)
    counted = Counting(wide_task)
    again = string_sampling(*ends, counted, store=store)
    assert (counted.descents, counted.calls) == (0, 2), "the ends and the certificate"
    assert all(x.equal(y) for x, y in zip(again.path.controls, whole.path.controls, strict=True))
    with pytest.raises(RunError, match="belongs to other settings"):
        string_sampling(*ends, Landscape(wide_task), seed=8, store=store)
    with pytest.raises(RunError, match="belongs to other settings"):
        string_sampling(*ends, Landscape(wide_task, limit=100), store=store, level=0.5)


class Counting(Landscape):
    """Counts what is asked of it."""

    calls = 0
    points = 0
    descents = 0

    def evaluate(self, points, *rest: Any, **named: Any):
        type(self).calls += 1
        type(self).points += len(points)
        return super().evaluate(points, *rest, **named)

    def descent(self, *rest: Any, **named: Any):
        type(self).descents += 1
        return super().descent(*rest, **named)


@pytest.fixture(autouse=True)
def _from_zero() -> None:
    Counting.calls = Counting.points = Counting.descents = 0


def test_every_piece_is_evaluated_once_and_all_of_a_depth_together(ends, wide_task) -> None:
    land = Counting(wide_task)
    found = string_sampling(*ends, land, times=1.2, positions=9, refine=1, check=10_000, steps=200)
    beads, rounds = found.settings["beads"], len(found.history)
    assert beads > 3
    pieces = 1 + 2 * beads  # every bead replaces one piece by two
    ends_and_beads = 2 + beads
    certificate = (beads + 1) * (9 + 2) + beads + 2
    assert land.points == ends_and_beads + pieces * (9 + 2) + certificate
    assert land.calls == 1 + beads + 2 * rounds + 1


# -- certificates on surfaces with known passes ---------------------------------------------------

ANALYTIC: dict[str, Any] = {"steps": 400, "check": 1, "momentum": 0.0, "decay": 0.0}
RATES = {"double well": 0.02, "Mueller-Brown": 0.002, "egg carton": 0.02}


def searched(surface: Surface, level: float, **settings: Any) -> Connection:
    settings = {"rate": RATES[surface.name], "tolerance": 0.0, **ANALYTIC, **settings}
    return string_sampling(*surface.ends, surface.landscape, level=level, **settings)


@pytest.mark.parametrize("surface", SURFACES, ids=lambda s: s.name)
@pytest.mark.parametrize("above", [0.05, 0.2])
def test_a_level_above_the_pass_is_certified(surface: Surface, above: float) -> None:
    level = surface.pass_energy + above * abs(surface.pass_energy)
    found = searched(surface, level)
    assert found.outcome is Outcome.CONNECTED_AT_LEVEL
    assert found.settings["stopped_by"] == ""
    highest = dense_maximum(found.path, surface.landscape)
    assert surface.pass_energy <= highest + 1e-9, "no path lies below the pass"
    assert found.saddle.loss <= level
    assert highest <= level + 0.01 * abs(level), "between the tested positions, too"
    line = dense_maximum(Segment(*surface.ends), surface.landscape)
    assert found.history[0] == pytest.approx(line, abs=2e-3 * (1 + abs(line)))


@pytest.mark.parametrize("surface", SURFACES, ids=lambda s: s.name)
@pytest.mark.parametrize("below", [0.05, 0.2])
def test_a_level_below_the_pass_is_not_found(surface: Surface, below: float) -> None:
    level = surface.pass_energy - below * abs(surface.pass_energy)
    found = searched(surface, level, depth=7)
    assert found.outcome is Outcome.NOT_FOUND_WITHIN_DEPTH
    assert found.settings["depth_reached"] == len(found.history) - 1
    if surface is not EGG_CARTON:  # where a bead comes to rest on a pass
        assert (found.settings["stopped_by"], found.settings["depth_reached"]) == ("depth", 7)
    scale = abs(surface.pass_energy)
    assert -0.01 * scale < found.saddle.loss - surface.pass_energy < 0.1 * scale, "as far as it got: the pass"
    assert found.path(0).equal(surface.ends[0])
    assert found.path(1).equal(surface.ends[1])


def naive(a, b, gradient: Callable, loss: Callable, level: float, rate: float, positions: int) -> list:
    """Written from algorithm 1, depth first: bead at the maximum, plain descent, both halves."""
    s = [(k + 1) / (positions + 1) for k in range(positions)]
    values = [loss((1 - x) * a + x * b) for x in s]
    if max(values) <= level:
        return [a]
    x = s[values.index(max(values))]
    bead = (1 - x) * a + x * b
    while loss(bead) > 0.98 * level:
        bead = bead - rate * gradient(bead)
    return naive(a, bead, gradient, loss, level, rate, positions) + naive(
        bead, b, gradient, loss, level, rate, positions
    )


@pytest.mark.parametrize(("surface", "level"), [(DOUBLE_WELL, 1.05), (EGG_CARTON, 2.1)])
def test_the_search_is_the_papers(surface: Surface, level: float) -> None:
    found = string_sampling(
        *surface.ends, surface.landscape, level=level, tolerance=0.0, refine=0, jitter=0.0, positions=19,
        rate=0.01, steps=10_000, check=1, momentum=0.0, decay=0.0,
    )  # fmt: skip
    a, b = (end.vector for end in surface.ends)
    gradient = torch.func.grad(surface.function)
    expected = naive(a, b, gradient, lambda x: float(surface.function(x)), level, 0.01, 19)
    assert len(expected) > 3
    for got, wanted in zip(found.path.controls, [*expected, b], strict=True):
        assert_close(got.vector, wanted, rtol=1e-9, atol=1e-9)


def ring(x: torch.Tensor) -> torch.Tensor:
    """A circular valley of radius 1."""
    return (x.square().sum() - 1).square()


def geodesic(level: float, angle: float) -> float:
    """The shortest way between two points of the unit circle outside the disc where `ring` is above a level.

    Where |r² − 1| <= √L the inner radius is r = √(1 − √L): a tangent of length √(1 − r²) from each end to
    the disc, which it meets acos(r) further on, and the arc between.
    """
    inner = math.sqrt(1 - math.sqrt(level))
    turned = 2 * math.acos(inner)
    if turned >= angle:
        return 2 * math.sin(angle / 2)
    return 2 * math.sqrt(1 - inner**2) + inner * (angle - turned)


def test_the_normalised_length_in_a_circular_valley() -> None:
    """Never below the geodesic's inside the level set, and longer the lower the level."""
    angle = 2.4
    a, b = point(1.0, 0.0), point(math.cos(angle), math.sin(angle))
    ratios = []
    levels = [0.9, 0.5, 0.2, 0.05, 0.01, 0.001]
    for level in levels:
        found = string_sampling(
            a, b, AnalyticLandscape(ring), level=level, tolerance=0.0, rate=0.02, **ANALYTIC
        )
        assert found.outcome is Outcome.CONNECTED_AT_LEVEL
        ratio = found.length / found.endpoint_distance
        straight = 2 * math.sin(angle / 2)
        assert ratio * straight >= geodesic(level * 1.02, angle) * (1 - 1e-4)
        ratios.append(ratio)
    assert ratios[0] == pytest.approx(1), "at this level the straight line is allowed"
    assert all(low >= high for high, low in itertools.pairwise(ratios))
    assert ratios[-1] == pytest.approx(angle / straight, rel=0.02), "in the limit, the arc over the chord"


def test_a_bead_on_the_ridge_between_antipodes_finds_the_valley() -> None:
    """Both ends have y = 0 and so has the gradient everywhere between: only the jitter leads off the line."""
    given = {"level": 0.1, "tolerance": 0.0, "rate": 0.02, **ANALYTIC}
    found = string_sampling(point(1.0, 0.0), point(-1.0, 0.0), AnalyticLandscape(ring), **given)
    assert found.outcome is Outcome.CONNECTED_AT_LEVEL
    assert dense_maximum(found.path, AnalyticLandscape(ring)) < 0.101
    given |= {"jitter": 0.0}
    stuck = string_sampling(point(1.0, 0.0), point(-1.0, 0.0), AnalyticLandscape(ring), **given)
    assert stuck.outcome is Outcome.NOT_FOUND_WITHIN_DEPTH


def test_the_tolerance_is_of_the_level_also_where_it_is_negative() -> None:
    surface = MUELLER_BROWN
    level = surface.pass_energy - 0.05 * abs(surface.pass_energy)
    tight, loose = (searched(surface, level, tolerance=tolerance) for tolerance in (0.0, 0.1))
    assert tight.outcome is Outcome.NOT_FOUND_WITHIN_DEPTH
    assert loose.outcome is Outcome.CONNECTED_AT_LEVEL
    assert level < loose.saddle.loss <= level + 0.1 * abs(level)


# -- the published counter-example ----------------------------------------------------------------


def square(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (output - target).square().sum(dim=1)


def far(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return ((output - target).norm(dim=1) > 0.5).float()


def two_three_two() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False))


def three_points() -> torch.Tensor:
    turns = torch.tensor([0.0, 1.0, 2.0]) * 2 * math.pi / 3
    return torch.stack([turns.cos(), turns.sin()], dim=1)


@pytest.fixture
def permuted() -> Task:
    """Three points on the unit circle, each to be carried to the next."""
    x = three_points()
    data = (x, x.roll(-1, dims=0))
    recipe = Recipe(epochs=400, batch=3, rate=0.1, weight_decay=0.0)
    return Task(
        model=two_three_two, train=data, test=data, loss=square, error=far, recipe=recipe, name="2-3-2"
    )


@pytest.fixture
def swapped(permuted: Task) -> tuple[Weights, Weights]:
    """A network without any loss, unit k of which sees point k alone, and its copy with two units swapped."""
    x, y = permuted.train
    one = Weights.from_state_dict({"0.weight": x.clone(), "2.weight": y.T.contiguous()})
    order = [1, 0, 2]
    other = Weights.from_state_dict({"0.weight": x[order].clone(), "2.weight": y.T[:, order].contiguous()})
    return one, other


def test_the_pass_of_the_counter_example_is_a_sixth() -> None:
    """Why there is no path below 1/6, and the numbers of the proof.

    Let H (units × points) be the hidden activations and Y (2 × points) the targets. The output is W H, and
    the loss ‖Y − W H‖² / 3 is at least the part of Y outside H's row space. On any path the determinant of
    H is continuous, and the swap of two rows changes its sign; so somewhere it is 0, and a unit vector v is
    normal to the row space: H v = 0, and the loss is at least ‖Y v‖² / 3. As no entry of H is negative, v
    is not positive throughout, nor negative. The targets are the corners of a triangle about the origin:
    Y (1, 1, 1)ᵀ = 0 and Y Yᵀ = 3/2 I, hence ‖Y v‖² = 3/2 (1 − (v · 1)² / 3), which over such v is least at
    v = (1, 1, 0) / √2: 1/2. So the loss is at least 1/6 somewhere on any path between the two.
    """
    y = three_points().roll(-1, dims=0).double().T
    assert_close(y.sum(dim=1), torch.zeros(2, dtype=torch.float64), atol=1e-7, rtol=0)
    assert_close(y @ y.T, 1.5 * torch.eye(2, dtype=torch.float64), atol=1e-6, rtol=0)
    v = torch.randn(200_000, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    v = v[(v.min(dim=1).values <= 0) & (v.max(dim=1).values >= 0)]
    v = v / v.norm(dim=1, keepdim=True)
    least = (v @ y.T).square().sum(dim=1).min() / 3
    assert 1 / 6 <= least < 1 / 6 + 2e-3


def test_two_swapped_units_are_not_connected_and_the_search_ends(permuted: Task, swapped) -> None:
    land = Landscape(permuted)
    assert float(land.evaluate(swapped, "train").mean_loss.max()) < 1e-12
    for level, seed in ((0.01, 0), (0.1, 1), (0.16, 2)):
        found = string_sampling(*swapped, land, level=level, seed=seed)
        assert found.outcome is Outcome.NOT_FOUND_WITHIN_DEPTH
        assert found.saddle.loss >= 1 / 6 - 1e-3
        assert found.settings["beads"] < 60, "far from the worst case of 1023"
        if level == 0.01:  # beads reach the level on either side, but nothing reaches across
            assert (found.settings["stopped_by"], found.settings["depth_reached"]) == ("depth", 10)


def test_far_enough_above_the_pass_they_are_connected(permuted: Task, swapped) -> None:
    """Not just above it: beads come to rest in poor local minima, whose loss is 1/3."""
    land = Landscape(permuted)
    assert dense_maximum(Segment(*swapped), land, 101) > 0.35
    found = string_sampling(*swapped, land, level=0.45)
    assert found.outcome is Outcome.CONNECTED_AT_LEVEL
    assert 1 / 6 <= dense_maximum(found.path, land) <= 0.46
    with torch.no_grad():
        signs = [
            torch.linalg.det((permuted.train[0] @ point["0.weight"].T).relu().double()).sign()
            for point in (found.path(0), found.path(1))
        ]
    assert signs[0] == -signs[1] != 0


# -- how a search fails ---------------------------------------------------------------------------


def test_a_bead_that_does_not_get_there_ends_the_search(ends, wide_task) -> None:
    found = string_sampling(*ends, Landscape(wide_task), times=1.2, steps=3)
    assert found.outcome is Outcome.NOT_FOUND_WITHIN_DEPTH
    assert (found.settings["stopped_by"], found.settings["beads"], found.steps) == ("steps", 1, 3)
    assert len(found.path.controls) == 3, "as far as it got"
    assert found.saddle.loss > found.settings["level"]
    assert len(found.history) == 2


def test_divergence_is_an_outcome(ends, wide_task) -> None:
    found = string_sampling(*ends, Landscape(wide_task), times=1.2, rate=1e6, steps=400)
    assert found.outcome is Outcome.DIVERGED
    assert found.settings["stopped_by"] == "divergence"
    assert len(found.path.controls) == 2
    assert math.isfinite(found.saddle.loss)


def test_depth_zero_only_tests_the_line(ends, wide_task) -> None:
    found = string_sampling(*ends, Landscape(wide_task), times=1.2, depth=0)
    assert found.outcome is Outcome.NOT_FOUND_WITHIN_DEPTH
    assert (found.steps, len(found.path.controls)) == (0, 2)


# -- models of every kind -------------------------------------------------------------------------


def test_a_level_of_the_error(ends, wide_task) -> None:
    land = Landscape(wide_task)
    worse = float(land.evaluate(ends, "train").mean_error.max())
    found = string_sampling(*ends, land, level=worse + 0.01, of="error", tolerance=0.0)
    assert found.outcome is Outcome.CONNECTED_AT_LEVEL
    assert found.saddle.error <= worse + 0.01
    assert found.history[0] > worse + 0.01


def test_batch_norm_and_dropout(image_task: Task) -> None:
    a, b = train(image_task, 1, steps=30), train(image_task, 2, steps=30)
    land = Landscape(image_task)
    top = dense_maximum(Segment(a, b), land, 21)
    worse = float(Segment(a, b) and land.evaluate([a, b], "train").mean_loss.max())
    level = (top + worse) / 2 if top > worse else 1.1 * worse
    one = string_sampling(a, b, land, level=level, steps=60)
    torch.manual_seed(5)
    two = string_sampling(a, b, land, level=level, steps=60)
    assert one.path(0).equal(a)
    assert one.saddle == two.saddle
    assert one.outcome is Outcome.CONNECTED_AT_LEVEL


def partly_frozen() -> nn.Module:
    module = wide()
    weight = torch.randn(32, 8, generator=torch.Generator().manual_seed(3)) / 3
    module[0].load_state_dict({"weight": weight, "bias": torch.zeros(32)})
    module[0].requires_grad_(False)
    return module


def test_what_training_holds_still_stays(wide_task: Task) -> None:
    """Two trainings of the upper layers over one first layer."""
    frozen = Task(model=partly_frozen, train=wide_task.train, test=wide_task.test, recipe=wide_task.recipe)
    a, b = train(frozen, 1), train(frozen, 2)
    found = string_sampling(a, b, Landscape(frozen), times=1.01, steps=40, decay=0.1, depth=1)
    assert found.steps == 40
    bead = found.path.controls[1]
    assert_close(bead["0.weight"], a["0.weight"], rtol=1e-6, atol=1e-7)
    assert torch.equal(bead["0.bias"], a["0.bias"])
    assert float((bead["2.weight"] - a["2.weight"]).norm()) > 0.1


class Backwards:
    """Two workers that take the last item first, and see pickled copies only, as other processes would."""

    workers = 2

    def map(self, function: Callable, items: Iterable) -> list:
        found = {i: pickle.loads(pickle.dumps(function))(pickle.loads(pickle.dumps(item)))
                 for i, item in reversed(list(enumerate(items)))}  # fmt: skip
        return [found[i] for i in sorted(found)]


class InThisProcess(Backwards):
    """The same, for landscapes whose evaluation is not made to be pickled."""

    def map(self, function: Callable, items: Iterable) -> list:
        found = {i: function(item) for i, item in reversed(list(enumerate(items)))}
        return [found[i] for i in sorted(found)]


def test_a_fan_out_gives_the_same(ends, wide_task, whole) -> None:
    one = whole
    two = string_sampling(*ends, Landscape(wide_task), times=1.2, steps=600, fanout=InThisProcess())
    assert all(x.equal(y) for x, y in zip(one.path.controls, two.path.controls, strict=True))
    assert (one.saddle, one.steps) == (two.saddle, two.steps)


def test_the_beads_may_be_trained_in_other_processes(ends, wide_task) -> None:
    from isthmus.connect.beads import Piece, StringSettings, Trainer
    from isthmus.io.state import NoStore
    from isthmus.progress import Silent

    settings = StringSettings(0.3, "loss", 0.02, 0.98, 10, 19, 2, 0.0, 20, 5, 32, 0.03, 0.9, 0.0, 1)
    trainer = Trainer(*ends, Landscape(wide_task), settings, "", NoStore(), Silent())
    grid = torch.linspace(0, 1, 5, dtype=torch.float64)[1:-1]
    pieces = [Piece(address, *ends, grid, torch.ones(3)) for address in ("0", "1")]
    away = Backwards().map(trainer, pieces)
    here = [trainer(piece) for piece in pieces]
    assert all(x.weights.equal(y.weights) for x, y in zip(away, here, strict=True))
    assert not here[0].weights.equal(here[1].weights), "each bead has a seed of its own"


# -- refusals -------------------------------------------------------------------------------------


def test_a_level_below_the_ends_is_refused(ends, wide_task) -> None:
    land = Landscape(wide_task)
    first, last = land.evaluate(ends, "train").mean_loss.tolist()
    with pytest.raises(SettingError) as told:
        string_sampling(*ends, land, level=0.5 * min(first, last))
    text = str(told.value)
    assert f"{first:.4g}" in text
    assert f"{last:.4g}" in text
    assert "at least" in text
    with pytest.raises(SettingError, match="below an end's own training loss"):
        string_sampling(*ends, land, level=0.999 * max(first, last))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"alpha": 0.0}, "0 < alpha <= 1"),
        ({"tolerance": -0.1}, "tolerance >= 0"),
        ({"jitter": 1.0}, "jitter < 1"),
        ({"depth": -1}, "depth must be at least 0"),
        ({"positions": 0}, "positions must be at least 1"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"rate": -1.0}, "rate"),
        ({"momentum": 1.0}, "momentum"),
        ({"of": "accuracy"}, "'loss' or 'error'"),
        ({"level": math.nan}, "finite"),
        ({"times": 0.5}, "give a level"),
    ],
)
def test_refusals(ends, wide_task, settings: dict, told: str) -> None:
    with pytest.raises(SettingError, match=told):
        string_sampling(*ends, Landscape(wide_task), **settings)


def test_a_connector_refuses_before_it_is_used() -> None:
    with pytest.raises(SettingError, match="0 < alpha <= 1"):
        StringConnector(alpha=2.0)
    with pytest.raises(SettingError, match="times is of the worse end's loss"):
        StringConnector(times=0.5)


def test_a_string_has_two_ends(ends, wide_task) -> None:
    with pytest.raises(SettingError, match="joins two points, got 3"):
        StringConnector().connect((*ends, ends[0]), Landscape(wide_task))


@pytest.mark.parametrize("value", [0.0012346, 0.00123449, 1.0, 9.9996e-5, 0.0])
def test_the_level_that_a_refusal_offers_is_not_refused(value: float) -> None:
    with pytest.raises(SettingError) as refused:
        require_ends_below((value, value), value / 2 - 1e-6)
    offered = float(str(refused.value).partition("at least ")[2].partition(",")[0])
    require_ends_below((value, value), offered)
    assert offered <= value * 1.002
