"""Elastic bands: known passes, the published step written naively, laws of redistribution, exact resuming."""

import math
import pickle
from itertools import pairwise

import pytest
import torch
from torch.func import functional_call
from torch.nn import functional
from torch.testing import assert_close

from analytic_surfaces import (
    DOUBLE_WELL,
    EGG_CARTON,
    MUELLER_BROWN,
    SURFACES,
    Surface,
    descending_directions,
    stationary_point,
    weights_at,
)
from conftest import Killed, Killer, mlp, random_weights
from isthmus import AnalyticLandscape, Chain, Landscape, Segment, Task, Weights, barrier, profile, train
from isthmus.connect.abstract import Outcome
from isthmus.connect.band import Band, BandConnector, _Slopes, elastic_band
from isthmus.connect.bandsettings import PUBLISHED, BandSettings, Cycle, published, shorter
from isthmus.connect.springs import (
    Geometry,
    insertions,
    measure,
    pulls,
    redistribute,
    tangents,
    with_inserted,
)
from isthmus.errors import LayoutError, SettingError
from isthmus.io.state import FileStore
from isthmus.landscape import Recipe
from isthmus.path.resample import evenly_spaced, redistributed


@pytest.fixture
def pair(task: Task) -> tuple[Weights, Weights]:
    return train(task, 1), train(task, 2)


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# -- known passes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("surface", SURFACES, ids=lambda s: s.name)
def test_the_surfaces_are_what_they_say(surface: Surface) -> None:
    """Newton's method finds every minimum and saddle again, and the Hessian tells which is which."""
    for kind, positions in ((0, surface.minima), (1, surface.saddles)):
        for position in positions:
            start = (position[0] + 0.02, position[1] - 0.01)
            found = stationary_point(surface.function, start)
            assert found == pytest.approx(position, abs=1e-9)
            assert descending_directions(surface.function, found) == kind
    assert surface.pass_energy == pytest.approx(max(map(surface.energy, surface.saddles)))


@pytest.mark.parametrize(("spring", "momentum"), [("redistribute", 0.9), (1.0, 0.5)])
@pytest.mark.parametrize("surface", SURFACES, ids=lambda s: s.name)
def test_the_saddle_is_the_true_one(surface: Surface, spring, momentum: float) -> None:
    true = surface.energy(stationary_point(surface.function, surface.saddle))
    found = elastic_band(
        *surface.ends, surface.landscape, spring=spring, momentum=momentum, steps=200, rate=0.1, decay=0.0,
        threshold=0.02,
    )  # fmt: skip
    height = true - min(surface.energy(surface.a), surface.energy(surface.b))
    assert found.saddle.loss == pytest.approx(true, abs=0.01 * min(abs(true), height))
    where = found.path(found.saddle.t).vector
    assert min(math.dist(where.tolist(), saddle) for saddle in surface.saddles) < 0.12
    assert found.outcome is Outcome.COMPLETED
    line = surface.landscape.evaluate(Segment(*surface.ends).at(torch.linspace(0, 1, 101))).mean_loss.max()
    assert found.saddle.loss < float(line)


def test_a_band_on_a_ridge_of_symmetry_stays_there() -> None:
    """A stated limit: the diagonal of the egg carton leads over the hill of 4, and no force leads off it."""
    ends = weights_at((0.0, 0.0)), weights_at((2 * math.pi, 2 * math.pi))
    found = elastic_band(*ends, EGG_CARTON.landscape, steps=200, decay=0.0)
    assert found.saddle.loss == pytest.approx(4)
    around = weights_at((5.0, 1.0))
    found = elastic_band(*ends, EGG_CARTON.landscape, through=[around], steps=200, decay=0.0)
    assert found.saddle.loss == pytest.approx(2, rel=0.01)


# -- tangents -------------------------------------------------------------------------------------


def tangent(energies, first, second) -> torch.Tensor:
    """The tangent of a single pivot at the origin of two segments, as a vector."""
    d = torch.tensor([first, second], dtype=torch.float64)
    a, b = tangents(numbers(*energies), d.norm(dim=1), (d[:1] * d[1:]).sum(1))[0]
    return a * d[0] + b * d[1]


def test_a_tangent_points_along_the_segment_to_the_higher_neighbour() -> None:
    assert_close(tangent([0, 1, 5], [2, 0], [0, 3]), numbers(0, 1))
    assert_close(tangent([5, 1, 0], [2, 0], [0, 3]), numbers(1, 0))


@pytest.mark.parametrize("energies", [[0.0, 4.0, 1.0], [5.0, 1.0, 4.0]])
def test_at_an_extremum_the_higher_neighbour_weighs_the_larger_difference(energies) -> None:
    """Henkelman and Jonsson's equation 10; the published code of the elastic band reverses the pairing."""
    last, here, following = energies
    low, high = sorted([abs(last - here), abs(following - here)])
    mixed = numbers(low, high) if following > last else numbers(high, low)  # along the axes
    assert_close(tangent(energies, [2, 0], [0, 0.5]), mixed / mixed.norm())
    reversed_mix = mixed.flip(0) / mixed.norm()
    assert (tangent(energies, [2, 0], [0, 0.5]) - reversed_mix).norm() > 0.1


@pytest.mark.parametrize(
    ("energies", "first", "second", "expected"),
    [
        ([1, 1, 1], [1, 0], [0, 1], [0.5**0.5, 0.5**0.5]),
        ([1, 2, 1], [1, 0], [0, 3], [0.5**0.5, 0.5**0.5]),
        ([1, 1, 2], [1, 0], [0, 1], [0, 1]),
        ([0, 1, 2], [1, 0], [0, 0], [1, 0]),
        ([2, 1, 0], [0, 0], [0, 2], [0, 1]),
        ([0, 1, 0], [0, 0], [0, 0], [0, 0]),
        ([0, 1, 0], [1, 0], [-1, 0], [0, 0]),
        ([0, 1e-300, 0], [1, 0], [1, 0], [1, 0]),
        ([0, 1e-320, 5e-324], [1, 0], [0, 1], [0.7071067811865476, 0.7071067811865476]),
        ([math.inf, 1, math.inf], [1, 0], [0, 1], [0.5**0.5, 0.5**0.5]),
        ([math.inf, math.inf, 0], [1, 0], [0, 1], [1, 0]),
    ],
)
def test_tangents_that_are_hard_to_define(energies, first, second, expected) -> None:
    found = tangent(energies, first, second)
    assert bool(found.isfinite().all())
    assert_close(found, numbers(*expected), rtol=1e-3, atol=1e-3)


def test_tangents_are_of_length_one_whatever_the_energies() -> None:
    generator = torch.Generator().manual_seed(3)
    for _ in range(50):
        band = torch.randn(9, 4, generator=generator, dtype=torch.float64)
        energies = torch.randint(0, 4, (9,), generator=generator).double()  # many ties
        shape = measure(band, torch.zeros(7, 4, dtype=torch.float64))
        ab, d = tangents(energies, shape.lengths, shape.bends), band.diff(dim=0)
        assert_close((ab[:, :1] * d[:-1] + ab[:, 1:] * d[1:]).norm(dim=1), torch.ones(7).double())


def test_inner_products_do_not_depend_on_the_blocks(monkeypatch) -> None:
    generator = torch.Generator().manual_seed(4)
    band, slope = (torch.randn(k, 101, generator=generator, dtype=torch.float64) for k in (6, 4))
    d = band.diff(dim=0)
    expected = Geometry(
        d.norm(dim=1),
        (d[1:] * d[:-1]).sum(1),
        (slope * d[:-1]).sum(1),
        (slope * d[1:]).sum(1),
        (band**2).sum(1),
    )
    for size in (1, 60, 1 << 17):
        monkeypatch.setattr("isthmus.connect.springs._BLOCK", size)
        found = measure(band, slope)
        for name in ("lengths", "bends", "before", "after", "squares"):
            assert_close(getattr(found, name), getattr(expected, name))
        velocity, moved = torch.zeros_like(slope), band.clone()
        redistribute(moved, velocity, d.norm(dim=1))
        assert_close(moved, naive_redistribution(list(band))[0])


def test_inner_products_keep_their_digits_where_products_may_be_rounded() -> None:
    band = torch.randn(4, 50, generator=torch.Generator().manual_seed(6))
    exact = measure(band, band[1:-1])
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert_close(measure(band, band[1:-1]).lengths, exact.lengths, rtol=1e-6, atol=0)
    finally:
        torch.set_float32_matmul_precision(before)


def test_what_training_holds_still_stays(task: Task) -> None:
    """Two trainings of the upper layers over one first layer: the pivots keep it to the last bit."""

    def partly_frozen() -> torch.nn.Module:
        module = mlp()
        with torch.no_grad():
            module[0].weight.fill_(0.3)
        module[0].weight.requires_grad_(False)
        return module

    frozen = Task(model=partly_frozen, train=task.train, test=task.test, recipe=task.recipe)
    a, b = train(frozen, 1), train(frozen, 2)
    found = elastic_band(a, b, Landscape(frozen), cycles=[Cycle(10, 0.03)] * 2, decay=0.1)
    assert found.cycle_saddles.argmin() == 2
    for pivot in found.path.controls[1:-1]:
        assert torch.equal(pivot["0.weight"], a["0.weight"])
        assert float((pivot["2.weight"] - a["2.weight"]).norm()) > 0.01


def test_a_spring_pulls_toward_the_longer_segment() -> None:
    band = torch.tensor([[0.0], [1.0], [4.0]], dtype=torch.float64)
    shape = measure(band, torch.tensor([[7.0]], dtype=torch.float64))
    unit = tangents(numbers(0, 1, 2), shape.lengths, shape.bends)
    d = band.diff(dim=0)
    force = -7.0 + (pulls(shape, unit, 0.5)[0] * d[:, 0]).sum()
    assert float(force) == pytest.approx(0.5 * (3 - 1))  # the gradient lies along the band: it is taken out
    assert float(-7.0 + (pulls(shape, unit, None)[0] * d[:, 0]).sum()) == pytest.approx(0)


# -- redistribution -------------------------------------------------------------------------------


def naive_redistribution(rows: list[torch.Tensor]) -> tuple[torch.Tensor, list[tuple[int, float]]]:
    """Walk along the polyline, and put a pivot down at each equal share of its length."""
    lengths = [float((b - a).norm()) for a, b in pairwise(rows)]
    count, new, places = len(rows) - 2, [rows[0]], []
    for j in range(1, count + 1):
        left = sum(lengths) * j / (count + 1)
        for k, length in enumerate(lengths):
            if left <= length or k == len(lengths) - 1:
                break
            left -= length
        f = left / lengths[k] if lengths[k] else 0.5
        new.append(rows[k] + f * (rows[k + 1] - rows[k]))
        places.append((k, f))
    return torch.stack([*new, rows[-1]]), places


def test_redistribution_is_to_equal_arc_length() -> None:
    generator = torch.Generator().manual_seed(5)
    for _ in range(20):
        lengths = torch.rand(7, generator=generator, dtype=torch.float64)
        segment, fraction = evenly_spaced(lengths, 9)
        reached = torch.cat([numbers(0), lengths.cumsum(0)])
        arcs = reached[segment] + fraction * lengths[segment]
        assert_close(arcs, lengths.sum() * torch.arange(1, 10) / 10)
        assert bool((fraction >= 0).all())
        assert bool((fraction <= 1).all())


def test_laws_of_a_redistributed_chain() -> None:
    like = Weights.from_state_dict({"x": torch.zeros(5, dtype=torch.float64)})
    ends = [random_weights(like, k).with_buffers({"n": torch.tensor(k)}) for k in (0, 9)]
    chain = Chain((ends[0], *(random_weights(like, k) for k in (1, 2, 3)), ends[1]))
    found = redistributed(chain)
    assert len(found.controls) == len(chain.controls)
    assert found.controls[0].equal(ends[0])
    assert found.controls[-1].equal(ends[1])
    assert found.length <= chain.length * (1 + 1e-12)
    assert_close(
        torch.stack([w.vector for w in found.controls]),
        naive_redistribution([w.vector for w in chain.controls])[0],
    )
    straight = Chain.between(*ends, 4)
    again = redistributed(straight)  # even already: nothing moves
    for one, two in zip(straight.controls, again.controls, strict=True):
        assert_close(one.vector, two.vector)
    fine = redistributed(chain, 199)
    assert fine.length == pytest.approx(chain.length, rel=0.01)
    steps = [a.distance(b) for a, b in pairwise(fine.controls)]
    assert max(steps) <= fine.length / 200 * 1.05
    with pytest.raises(SettingError, match="at least 1 inner control, got 0"):
        redistributed(Segment(*ends))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "x", [[0.0, 0, 0, 4], [0, 4, 4, 4], [0, 0, 4, 4], [1, 1, 1, 1], [0, 0, 0, 0, 0, 2, 2, 2]]
)
def test_segments_of_length_zero(x: list[float]) -> None:
    band = numbers(*x)[:, None]
    velocity = torch.zeros_like(band[1:-1])
    redistribute(band, velocity, band.diff(dim=0).abs()[:, 0])
    assert_close(band[:, 0], torch.linspace(x[0], x[-1], len(x), dtype=torch.float64))
    assert not bool(velocity.any())


def test_velocities_move_along_the_band_with_the_positions() -> None:
    """The velocity at a place of the polyline is the same before and after; the ends have none."""
    band, velocity = numbers(0, 1, 2, 10)[:, None], numbers(3.0, -1.0)[:, None]
    redistribute(band, velocity, band.diff(dim=0)[:, 0])
    assert_close(band[:, 0], numbers(0, 10 / 3, 20 / 3, 10))
    there = [-1.0 * (10 - x) / 8 for x in (10 / 3, 20 / 3)]  # between the pivot at 2 and the end at 10
    assert_close(velocity[:, 0], numbers(*there))


# -- the step against one written from the paper --------------------------------------------------


def naive_band(task: Task, start: Chain, settings: BandSettings, spring) -> list[torch.Tensor]:
    """Explicit loops over pivots, autograd through each, one batch a step: the elastic band as published."""
    module = mlp()
    names, shapes = zip(*[(n, p.shape) for n, p in module.named_parameters()], strict=True)

    def loss_at(vector: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        pieces = vector.split([shape.numel() for shape in shapes])
        views = {n: p.view(s) for n, p, s in zip(names, pieces, shapes, strict=True)}
        return functional.cross_entropy(functional_call(module, views, x), y)

    rows = [w.vector.clone() for w in start.controls]
    velocities = [torch.zeros_like(rows[0]) for _ in rows]
    batches = task.split("train").stream(settings.seed, settings.batch)
    penalty = 0.5 * settings.decay
    for cycle in settings.cycles:
        velocities = [torch.zeros_like(rows[0]) for _ in rows]
        for _ in range(cycle.steps):
            x, y = next(batches)
            energies = [
                float(loss_at(rows[k], *task.train) + penalty * rows[k].square().sum()) for k in (0, -1)
            ]
            energies[1:1] = [0.0] * (len(rows) - 2)
            gradients = [torch.zeros_like(rows[0]) for _ in rows]
            for i in range(1, len(rows) - 1):
                at = rows[i].clone().requires_grad_()
                energy = loss_at(at, x, y) + penalty * at.square().sum()
                energies[i] = float(energy.detach())
                (gradients[i],) = torch.autograd.grad(energy, at)
            moved = [row.clone() for row in rows]
            for i in range(1, len(rows) - 1):
                before, after = rows[i] - rows[i - 1], rows[i + 1] - rows[i]
                e, g = energies[i - 1 : i + 2], gradients[i]
                if e[0] < e[1] < e[2]:
                    tau = after
                elif e[0] > e[1] > e[2]:
                    tau = before
                else:
                    small, large = sorted([abs(e[0] - e[1]), abs(e[2] - e[1])])
                    u, v = before / before.norm(), after / after.norm()
                    tau = large * v + small * u if e[2] > e[0] else small * v + large * u
                tau = tau / tau.norm()
                force = -g + (g @ tau) * tau
                if spring != "redistribute":
                    force = force + spring * (after.norm() - before.norm()) * tau
                velocities[i] = settings.momentum * velocities[i] - force
                moved[i] = rows[i] - cycle.rate * velocities[i]
            rows = moved
            if spring == "redistribute":
                new, places = naive_redistribution(rows)
                blended = [velocities[k] + f * (velocities[k + 1] - velocities[k]) for k, f in places]
                rows, velocities = list(new), [velocities[0], *blended, velocities[-1]]
    return rows


@pytest.mark.parametrize("spring", ["redistribute", 0.3, 0.0])
@pytest.mark.parametrize("steps", [1, 4])
def test_the_steps_are_the_papers(task: Task, pair, spring, steps: int) -> None:
    bent = Chain(
        tuple(w + random_weights(w, k) * 0.1 for k, w in enumerate(Chain.between(*pair, 4).controls))
    )
    start = Chain((pair[0], *bent.controls[1:-1], pair[1]))
    settings = BandSettings(
        (Cycle(steps, 0.05), Cycle(steps, 0.02)),
        batch=32,
        spring=spring,
        slack=0.0,
        insert=0,
        decay=0.01,
        seed=5,
    )
    found = elastic_band(
        *pair, Landscape(task), through=start.controls[1:-1], cycles=settings.cycles, batch=32, insert=0,
        slack=0.0, spring=spring, momentum=0.9, decay=0.01, seed=5,
    )  # fmt: skip
    assert found.cycle_saddles.argmin() == 2  # what comes back is the band after the last cycle
    expected = naive_band(task, start, settings, spring)
    for got, wanted in zip(found.path.controls, expected, strict=True):
        assert_close(got.vector, wanted, rtol=1e-4, atol=2e-5)
    assert found.steps == 2 * steps


def test_pivots_are_redistributed_where_their_spacing_is_off_by_the_slack() -> None:
    ends, land = EGG_CARTON.ends, EGG_CARTON.landscape
    cycles = [Cycle(60, 0.02), Cycle(60, 0.005)]

    def relaxed(**settings) -> list[torch.Tensor]:
        found = elastic_band(*ends, land, cycles=cycles, insert=0, pivots=6, decay=0.0, **settings)
        assert found.cycle_saddles.argmin() > 0
        return [w.vector for w in found.path.controls]

    never, free = relaxed(slack=1e9), relaxed(spring=0.0)
    assert all(torch.equal(x, y) for x, y in zip(never, free, strict=True))
    seldom = torch.stack([(b - a).norm() for a, b in pairwise(relaxed(slack=0.01))])
    assert float((seldom / seldom.mean() - 1).abs().max()) < 0.03


def test_each_cycle_starts_at_rest() -> None:
    cycle = Cycle(7, 0.02)
    ends, land = EGG_CARTON.ends, EGG_CARTON.landscape
    both = elastic_band(*ends, land, cycles=[cycle, cycle], insert=0, pivots=6, decay=0.0)
    first = elastic_band(*ends, land, cycles=[cycle], insert=0, pivots=6, decay=0.0)
    second = elastic_band(*ends, land, cycles=[cycle], insert=0, through=first.path.controls[1:-1], decay=0.0)
    assert all(x.equal(y) for x, y in zip(both.path.controls, second.path.controls, strict=True))


# -- insertion and the best cycle -----------------------------------------------------------------


def test_pivots_are_inserted_where_the_profile_is_missed() -> None:
    bump = [0.0, 9.0, 0.0, 0.0, 8.0, 0.0, 0.0, 5.0, 0.0, 0.0, 0.5, 0.0]
    loss = numbers(*(bump[k] for k in (0, 1, 2, 4, 5, 7, 8, 10, 11)))  # four segments of one inner position
    assert insertions(loss, 1, most=2, threshold=0.1) == [(0, 0.5), (1, 0.5)]
    assert insertions(loss, 1, most=9, threshold=0.1) == [(0, 0.5), (1, 0.5), (2, 0.5)]
    assert insertions(loss, 1, most=0, threshold=0.1) == []
    assert insertions(-loss, 1, most=2, threshold=0.1) == []  # below the straight profile
    assert insertions(torch.ones(9), 1, most=2, threshold=0.1) == []
    assert insertions(torch.linspace(0, 1, 9), 3, most=2, threshold=1e-9) == []
    assert insertions(numbers(0, math.inf, 0, 1, 0), 1, most=2, threshold=0.1) == [(0, 0.5)]
    assert insertions(numbers(0, math.nan, 0, 1, 0), 1, most=2, threshold=0.1) == [(0, 0.5)]


def test_insertion_leaves_the_polyline_as_it_is() -> None:
    band = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    found = with_inserted(band, [(0, 0.25), (2, 0.75)])
    assert torch.equal(found[[0, 2, 3, 5]], band)
    assert_close(found[1], 0.75 * band[0] + 0.25 * band[1])
    assert_close(found[4], 0.25 * band[2] + 0.75 * band[3])
    assert torch.equal(with_inserted(band, []), band)


def test_at_most_as_many_pivots_as_asked_for_and_none_where_none_is_needed() -> None:
    found = elastic_band(*EGG_CARTON.ends, EGG_CARTON.landscape, cycles=[Cycle(5, 0.02)] * 4, decay=0.0)
    grown = found.cycle_pivots.diff()
    assert int(found.cycle_pivots[0]) == 3
    assert bool((grown >= 0).all())
    assert bool((grown <= 2).all())
    assert int(found.cycle_pivots[-1]) > 3
    valley = AnalyticLandscape(lambda x: x[1] ** 2)
    flat = elastic_band(weights_at((0.0, 0.0)), weights_at((1.0, 0.0)), valley, steps=20)
    assert flat.cycle_pivots.tolist() == [3] * 11


def test_the_lowest_cycle_is_kept_and_its_highest_point_is_the_saddle() -> None:
    """The last cycle's rate throws the band out of its valley."""
    cycles = [Cycle(60, 0.05), Cycle(60, 0.02), Cycle(2, 1.5)]
    ends, land = DOUBLE_WELL.ends, DOUBLE_WELL.landscape
    found = elastic_band(*ends, land, cycles=cycles, decay=0.0, pivots=5)
    assert found.cycle_saddles[3] > found.cycle_saddles[2]
    assert found.saddle.loss == float(found.cycle_saddles.min())
    segments = len(found.path.controls) - 1
    t = torch.linspace(0, 1, 10 * segments + 1, dtype=torch.float64)
    assert found.saddle.points == len(t)
    assert float(land.evaluate(found.path.at(t)).mean_loss.max()) == found.saddle.loss
    assert land.evaluate([found.path(found.saddle.t)]).mean_loss.item() == found.saddle.loss


# -- nothing is ever not a number -----------------------------------------------------------------


@pytest.mark.parametrize("spring", ["redistribute", 2.0])
def test_flat_energies_and_coinciding_points(spring) -> None:
    flat = AnalyticLandscape(lambda x: 0 * x.sum())
    a, b = weights_at((-1.0, 0.0)), weights_at((0.2, 0.5))
    found = elastic_band(a, b, flat, spring=spring, steps=20, decay=0.0)
    assert found.length == pytest.approx(1.3)
    assert found.saddle.loss == 0
    for ends, through in (((a, a), []), ((a, b), [a, a, b]), ((a, b), [b, a]), ((a, a), [a])):
        for land in (flat, DOUBLE_WELL.landscape):
            some = elastic_band(
                *ends, land, through=through, spring=spring, cycles=[Cycle(10, 0.01)] * 2, decay=0.0
            )
            assert all(bool(w.vector.isfinite().all()) for w in some.path.controls)
            assert some.outcome is Outcome.COMPLETED


def test_divergence_is_an_outcome_and_the_best_band_so_far_comes_back(task: Task, pair) -> None:
    found = elastic_band(*pair, Landscape(task), cycles=[Cycle(20, 0.05), Cycle(400, 1e6)])
    assert found.outcome is Outcome.DIVERGED
    assert found.steps < 420
    assert found.saddle.loss == float(found.cycle_saddles[:2].min())
    assert all(w.first_nonfinite() is None for w in found.path.controls)
    assert bool(found.cycle_saddles[-1].isnan())


# -- networks: the contract of connectors, buffers, resuming, fan-out -----------------------------

SMALL = BandConnector(cycles=(Cycle(30, 0.03),) * 3, threshold=0.05, seed=3)


def same(one: Band, two: Band) -> bool:
    return (
        all(x.equal(y) for x, y in zip(one.path.controls, two.path.controls, strict=True))
        and one.saddle == two.saddle
        and torch.equal(one.history, two.history)
        and torch.equal(one.cycle_saddles, two.cycle_saddles)
        and torch.equal(one.cycle_pivots, two.cycle_pivots)
    )


def test_the_contract_of_connectors(task: Task, pair) -> None:
    land = Landscape(task)
    found = SMALL.connect(pair, land)
    assert found.path(0).equal(pair[0])
    assert found.path(1).equal(pair[1])
    line, path = (barrier(profile(p, land, split="train")).height for p in (Segment(*pair), found.path))
    assert path < 0.8 * line
    assert found.outcome is Outcome.COMPLETED
    assert found.length >= found.endpoint_distance * (1 - 1e-9)
    assert found.saddle.split == "train"
    assert found.saddle.examples == 256
    assert int(found.cycle_pivots[-1]) > 3
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert same(SMALL.connect(pair, land), found)
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(SettingError, match="needs at least 2 control points"):
        SMALL.connect(pair[:1], land)
    through = SMALL.connect((pair[0], train(task, 3), pair[1]), land)
    assert int(through.cycle_pivots[0]) == 1


def test_the_default_schedule_joins_networks(task: Task, pair) -> None:
    found = elastic_band(*pair, Landscape(task), steps=200)
    ends = Landscape(task).evaluate(pair, "train").mean_loss
    assert float(found.cycle_saddles[0]) > 50 * float(ends.max())
    assert found.saddle.loss < 0.1 * float(found.cycle_saddles[0])
    assert found.saddle.error == 0


@pytest.mark.parametrize("after", [1, 2, 6, 7, 8, 13, 18])
def test_a_kill_at_any_step_changes_nothing(task: Task, pair, tmp_path, after: int) -> None:
    """Six steps a cycle: the state after the seventh step is the first with inserted pivots."""
    band = BandConnector(cycles=(Cycle(6, 0.03),) * 3, threshold=0.05, seed=3)
    land = Landscape(task)
    whole = band.connect(pair, land)
    assert int(whole.cycle_pivots[2]) > int(whole.cycle_pivots[1])
    with pytest.raises(Killed):
        band.connect(pair, land, store=Killer(tmp_path / "state", after=after))
    torch.manual_seed(after)
    assert same(band.connect(pair, land, store=FileStore(tmp_path / "state")), whole)


def test_a_finished_band_is_read_back_from_its_state(pair, task: Task, tmp_path) -> None:
    band = BandConnector(cycles=(Cycle(4, 0.03),) * 2, seed=3)
    store = FileStore(tmp_path / "state", every=0.0)
    whole = band.connect(pair, Landscape(task), store=store)
    assert same(band.connect(pair, Landscape(task), store=store), whole)


def test_buffers_are_no_coordinates(image_task: Task) -> None:
    a, b = train(image_task, 1), train(image_task, 2)
    found = elastic_band(a, b, Landscape(image_task), cycles=[Cycle(3, 0.01)] * 2)
    assert found.path.controls[0].equal(a)
    assert found.path.controls[-1].equal(b)
    assert all(not w.buffers for w in found.path.controls[1:-1])
    other = b.with_buffers({n: t + 1 for n, t in b.buffers.items()})
    again = elastic_band(a, other, Landscape(image_task), cycles=[Cycle(3, 0.01)] * 2)
    for one, two in zip(found.path.controls[1:-1], again.path.controls[1:-1], strict=True):
        assert one.equal(two)
    assert again.length == found.length


class Sent:
    """Workers that take the last item first and see only pickled copies, as other processes would."""

    def __init__(self, workers: int) -> None:
        self.workers, self.calls = workers, 0

    def map(self, function, items):
        if not isinstance(function, _Slopes):  # evaluations are not made to be pickled
            return [function(item) for item in items]
        self.calls += 1
        sent = [pickle.dumps((function, item)) for item in items]
        assert all(len(piece) < 100_000 for piece in sent)  # not the whole band with every piece
        done = {}
        for k in reversed(range(len(sent))):
            work, item = pickle.loads(sent[k])
            done[k] = pickle.loads(pickle.dumps(work(item)))
        return [done[k] for k in range(len(sent))]


@pytest.mark.parametrize("workers", [2, 40])
def test_a_fan_out_gives_the_same_bits(image_task: Task, workers: int) -> None:
    """With dropout and batch norm."""
    a, b = (Weights.from_module(image_task.build(seed)) for seed in (1, 2))
    cycles = [Cycle(4, 0.02)] * 2
    alone = elastic_band(a, b, Landscape(image_task), cycles=cycles)
    fanout = Sent(workers)
    spread = elastic_band(a, b, Landscape(image_task), cycles=cycles, fanout=fanout)
    assert same(alone, spread)
    assert fanout.calls == 8


# -- settings -------------------------------------------------------------------------------------


def test_schedules() -> None:
    assert published() is PUBLISHED
    assert [(c.steps, c.rate) for c in PUBLISHED] == (
        [(1000, 0.1)] * 4 + [(2000, 0.1)] * 2 + [(1000, 0.01)] * 4 + [(1000, 0.001)] * 4
    )
    for steps in (10, 17, 1080):
        assert sum(c.steps for c in shorter(steps, 0.1)) == steps
    assert [c.steps for c in shorter(3, 0.1)] == [1] * 10


def test_defaults_come_from_the_recipe() -> None:
    recipe = Recipe(epochs=7, batch=8, rate=0.2, momentum=0.8, weight_decay=3e-4)
    x, y = torch.randn(24, 8), torch.randint(3, (24,))
    found = BandSettings.for_landscape(Landscape(Task(model=mlp, train=(x, y), test=(x, y), recipe=recipe)))
    assert (found.batch, found.momentum, found.decay) == (8, 0.8, 3e-4)
    assert sum(c.steps for c in found.cycles) == 1000  # a training has 21
    assert found.cycles[0].rate == pytest.approx(0.06)
    adam = Recipe(optimizer="adamw", rate=1e-3)
    other = BandSettings.for_landscape(Landscape(Task(model=mlp, train=(x, y), test=(x, y), recipe=adam)))
    assert other.cycles[0].rate == pytest.approx(0.03)
    assert other.decay == 5e-4
    assert sum(c.steps for c in other.cycles) == 1000
    long = Task(model=mlp, train=(x, y), test=(x, y), recipe=Recipe(epochs=500, batch=8))
    assert sum(c.steps for c in BandSettings.for_landscape(Landscape(long)).cycles) == 1500


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"spring": -1.0}, "'redistribute' .* or a constant of at least 0, got -1.0"),
        ({"spring": math.nan}, "got nan"),
        ({"spring": "stiff"}, "got 'stiff'"),
        ({"pivots": 0}, "pivots must be a whole number of at least 1, got 0"),
        ({"pivots": 2.5}, "whole number of at least 1, got 2.5"),
        ({"insert": -1}, "insert must be a whole number of at least 0, got -1"),
        ({"dense": -1}, "dense must be"),
        ({"batch": 0}, "batch must be"),
        ({"slack": math.nan}, "slack must be at least 0, got nan"),
        ({"threshold": -0.1}, "threshold must be at least 0, got -0.1"),
        ({"momentum": 1.0}, "expected 0 <= momentum < 1"),
        ({"decay": -1e-3}, "decay >= 0"),
        ({"cycles": ()}, "at least one cycle"),
        ({"steps": 0}, "at least 1 step, got 0"),
        ({"rate": 0.0}, "a finite rate above 0"),
        ({"cycles": (Cycle(1, 0.1),), "steps": 5}, "give cycles, .* or steps and a rate"),
        ({"pivots": 2, "through": [weights_at((0.0, 1.0))]}, "leave one of them out"),
    ],
)
def test_refusals(settings: dict, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        elastic_band(*DOUBLE_WELL.ends, DOUBLE_WELL.landscape, **settings)


def test_ends_of_different_architectures_are_refused(task: Task, pair) -> None:
    with pytest.raises(LayoutError):
        elastic_band(pair[0], weights_at((0.0, 0.0)), Landscape(task))


def test_mueller_brown_is_followed_to_its_second_pass() -> None:
    """The whole profile is right, not the highest point alone."""
    surface = MUELLER_BROWN
    found = elastic_band(
        *surface.ends, surface.landscape, pivots=15, cycles=[Cycle(120, 0.02), Cycle(60, 0.005)], decay=0.0
    )
    loss = surface.landscape.evaluate(found.path.at(torch.linspace(0, 1, 801))).mean_loss
    inner = (loss[1:-1] > loss[:-2]) & (loss[1:-1] > loss[2:])
    tops = sorted(float(x) for x in loss[1:-1][inner])
    for energy in map(surface.energy, surface.saddles):
        assert min(abs(top - energy) for top in tops) < 0.02
