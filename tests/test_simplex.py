"""Simplexes: volumes in closed form, the growth against a naive one, and what every connector promises."""

import math
from itertools import pairwise

import numpy
import pytest
import torch
from torch.testing import assert_close

from conftest import Killed, Killer, random_weights
from isthmus import AnalyticLandscape, Landscape, Segment, Weights, barrier, profile, train
from isthmus.connect import Outcome
from isthmus.connect.growing import Growth, SimplexSettings, pull_of
from isthmus.connect.simplex import (
    InsideSaddle,
    SimplexConnector,
    find_saddle_inside,
    fit_complex,
    fit_simplex,
    fit_simplexes,
)
from isthmus.errors import LayoutError, SettingError
from isthmus.fanout import Alone
from isthmus.io.state import FileStore
from isthmus.path.simplex import Simplex, SimplicialComplex, at_vertex, log_volume, volume_gradient
from isthmus.seeds import seeded


def points(rows: torch.Tensor) -> tuple[Weights, ...]:
    return tuple(Weights.from_state_dict({"x": row.clone()}) for row in rows)


def cloud(count: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, size, generator=seeded(seed, "cloud"), dtype=torch.float64)


def cayley_menger(rows: torch.Tensor) -> float:
    """V from the bordered matrix of squared distances, as the textbooks write it."""
    count = len(rows)
    matrix = numpy.ones((count + 1, count + 1))
    matrix[0, 0] = 0.0
    for i in range(count):
        for j in range(count):
            matrix[1 + i, 1 + j] = float((rows[i] - rows[j]).square().sum())
    k = count - 1
    return math.sqrt(abs(numpy.linalg.det(matrix)) / (math.factorial(k) ** 2 * 2**k))


# -- volumes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 3, 4, 6])
def test_the_volume_is_that_of_cayley_and_menger_and_no_square_of_it(k: int) -> None:
    rows = cloud(k + 1, 9) * 2 + 5
    region = Simplex(points(rows))
    assert region.volume == pytest.approx(cayley_menger(rows), rel=1e-9)
    assert region.log_volume == pytest.approx(math.log(cayley_menger(rows)), rel=1e-9)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 8])
def test_a_regular_simplex_has_the_volume_of_the_closed_form(k: int) -> None:
    edge = 3.0
    region = Simplex(points(torch.eye(k + 1, dtype=torch.float64) * edge / math.sqrt(2)))
    closed = edge**k * math.sqrt(k + 1) / (math.factorial(k) * 2 ** (k / 2))
    assert region.volume == pytest.approx(closed, rel=1e-12)
    assert region.normalised_volume == pytest.approx(1.0, rel=1e-12)
    assert_close(region.edge_lengths, torch.full((k * (k + 1) // 2,), edge, dtype=torch.float64))
    assert region.length == pytest.approx(edge * k * (k + 1) / 2)
    height = edge * math.sqrt((k + 1) / (2 * k))
    assert_close(region.heights, torch.full((k + 1,), height, dtype=torch.float64))


def test_a_large_simplex_does_not_overflow_and_a_flat_one_has_no_volume() -> None:
    size = 40
    region = Simplex(points(torch.eye(size, dtype=torch.float64) * 1e30))
    expected = (size - 1) * math.log(1e30) + 0.5 * math.log(size) - math.lgamma(size)
    assert region.log_volume == pytest.approx(expected, rel=1e-12)
    assert region.volume == math.inf
    rows = cloud(3, 5)
    for flat in (rows[[0, 1, 1]], torch.stack([rows[0], rows[1], rows[0] * 0.5 + rows[1] * 0.5])):
        region = Simplex(points(flat))
        assert region.normalised_volume < 1e-7
    assert Simplex(points(rows[[0, 1, 1]])).log_volume == -math.inf
    assert Simplex(points(rows[[0, 1, 1]])).volume == 0
    assert_close(Simplex(points(rows[[0, 1, 1]])).heights, torch.zeros(3, dtype=torch.float64))


def test_every_simplex_of_a_complex_counts() -> None:
    rows = cloud(5, 7)
    members = ((0, 3, 4), (1, 3, 4), (2, 3, 4))
    region = SimplicialComplex(points(rows), members)
    each = [cayley_menger(rows[list(member)]) for member in members]
    assert region.volume == pytest.approx(sum(each), rel=1e-9)
    assert region.volume > 1.5 * each[0]
    assert [math.exp(v) for v in region.log_volumes] == pytest.approx(each)
    assert len(region.edges) == 7  # 3 × 2 to the connectors, and the one they share
    assert_close(region.face(1).volume, each[1])


def test_the_gradient_of_the_log_volume_is_that_of_autograd() -> None:
    rows = cloud(5, 11).requires_grad_()
    naive = 0.5 * torch.logdet((rows[1:] - rows[0]) @ (rows[1:] - rows[0]).T)
    (slope,) = torch.autograd.grad(naive, rows)
    region = Simplex(points(rows.detach()))
    table = volume_gradient(region.gram)
    assert_close(table @ rows.detach(), slope)
    assert_close(table.sum(0), torch.zeros(5, dtype=torch.float64))
    assert_close(slope.norm(dim=1), 1 / region.heights)


def test_the_pull_on_a_connector_is_the_gradient_of_the_sum_of_all_volumes() -> None:
    rows = cloud(5, 8).requires_grad_()
    members = ((0, 3, 4), (1, 3, 4), (2, 3, 4))
    volumes = []
    for member in members:
        own = rows[list(member)]
        edges = own[1:] - own[0]
        volumes.append(torch.linalg.det(edges @ edges.T).sqrt() / 2)
    (slope,) = torch.autograd.grad(sum(volumes).log(), rows)
    gram = (rows @ rows.T).detach()
    assert_close(pull_of(gram, members, 4) @ rows.detach(), slope[4])
    first = volume_gradient(at_vertex(gram, members[0]))[2] @ rows.detach()[list(members[0])]
    assert not torch.allclose(first, slope[4], rtol=0.1), "one simplex alone is another gradient"


def test_a_flat_simplex_is_not_pulled() -> None:
    rows = cloud(2, 4)[[0, 1, 1]]
    gram = rows @ rows.T
    assert log_volume(at_vertex(gram, (0, 1, 2))) == -math.inf
    assert_close(pull_of(gram, [(0, 1, 2)], 2), torch.zeros(3, dtype=torch.float64))


# -- positions ---------------------------------------------------------------------------------------


def test_a_position_is_its_coefficients_and_a_vertex_is_itself() -> None:
    vertices = points(cloud(3, 4))
    region = Simplex(vertices)
    for number, vertex in enumerate(vertices):
        assert region(*(float(k == number) for k in range(3))) is vertex
    naive = 0.2 * vertices[0].vector + 0.5 * vertices[1].vector + 0.3 * vertices[2].vector
    assert_close(region(0.2, 0.5, 0.3).vector, naive)
    assert_close(region.at(torch.tensor([[0.2, 0.5, 0.3]]))[0].vector, naive)


def test_samples_lie_inside_evenly_and_are_the_seeds() -> None:
    region = Simplex(points(cloud(4, 6)))
    drawn = region.sample(4000, seed=3).coefficients
    assert float(drawn.min()) > 0
    assert_close(drawn.sum(1), torch.ones(4000, dtype=torch.float64))
    # Dirichlet(1) of four: mean 1/4, variance (1/4 · 3/4) / 5
    assert_close(drawn.mean(0), torch.full((4,), 0.25, dtype=torch.float64), atol=0.02, rtol=0)
    assert_close(drawn.var(0), torch.full((4,), 0.0375, dtype=torch.float64), atol=0.004, rtol=0)
    assert torch.equal(drawn, region.sample(4000, seed=3).coefficients)
    assert not torch.equal(drawn, region.sample(4000, seed=4).coefficients)


def test_samples_of_a_complex_go_round_its_simplexes() -> None:
    members = ((0, 2, 3), (1, 2, 3))
    drawn = SimplicialComplex(points(cloud(4, 6)), members).sample(10, seed=1).coefficients
    for number, row in enumerate(drawn):
        assert set(row.nonzero().flatten().tolist()) == set(members[number % 2])


def test_a_route_lies_in_the_complex() -> None:
    vertices = points(cloud(4, 6))
    region = SimplicialComplex(vertices, ((0, 2, 3), (1, 2, 3)))
    route = region.route(0, 1)
    assert route(0) is vertices[0]
    assert route(1) is vertices[1]
    assert_close(route(0.5).vector, (vertices[2].vector + vertices[3].vector) / 2)
    apart = SimplicialComplex(vertices, ((0, 2), (1, 3)))
    with pytest.raises(SettingError, match="no simplexes of the vertices 0 and 1 share a vertex"):
        apart.route(0, 1)


def test_positions_and_complexes_that_make_no_sense_are_refused() -> None:
    region = Simplex(points(cloud(3, 4)))
    with pytest.raises(SettingError, match="3 barycentric coordinates"):
        region(0.5)
    with pytest.raises(SettingError, match=r"must sum to 1, got 1\.5"):
        region(0.5, 0.5, 0.5)
    with pytest.raises(SettingError, match="at least 1 point"):
        region.sample(0)
    with pytest.raises(SettingError, match="needs at least 2 control points"):
        Simplex(points(cloud(1, 4)))
    with pytest.raises(SettingError, match="two or more different vertices of 0 to 2"):
        SimplicialComplex(points(cloud(3, 4)), ((0, 3),))
    with pytest.raises(SettingError, match="at least one simplex"):
        SimplicialComplex(points(cloud(3, 4)), ())


# -- the growth --------------------------------------------------------------------------------------


def bowl(x: torch.Tensor) -> torch.Tensor:
    """Steep in the first coordinates, flat in the last."""
    return 0.5 * (torch.arange(len(x), 0, -1, dtype=x.dtype) * x.square()).sum() + x[0] ** 3


@pytest.mark.parametrize("modes", [1, 3])
def test_the_growth_is_that_of_a_naive_one_by_autograd(modes: int) -> None:
    """The objective written from the paper, descended by torch's own SGD, vertex after vertex."""
    land = AnalyticLandscape(bowl)
    given = points(cloud(modes, 6, seed=2))
    settings = SimplexSettings(7, 1, 0.01, 0.05, 4, 0.8, 0.02, seed=5)
    groups = ((0,),) if modes == 1 else tuple((k,) for k in range(modes))
    new = 3
    growth = Growth(given, groups, new, land, settings, Alone())
    with growth.begin(0) as take:
        starts, losses = [], []
        for step in range(growth.steps):
            newest, _ = growth._ready(step)
            if step % 7 == 0:
                starts.append(growth.vertices[newest].clone())
                growth.planted = 0  # the step plants it again, from the same seed
            losses.append(take(step))
    vertices = [point.vector for point in given]
    naive_losses = []
    for stage in range(new):
        newest = modes + stage
        vertex = starts[stage].clone().requires_grad_()
        optimizer = torch.optim.SGD([vertex], 0.01, 0.8, weight_decay=0.02)
        members = [group + tuple(range(modes, newest + 1)) for group in groups]
        region = SimplicialComplex(points(torch.stack([*vertices, starts[stage]])), tuple(members))
        draws = region.draw(7 * 4, seeded(5, "positions", newest))
        for step in range(7):
            optimizer.param_groups[0]["lr"] = settings.rate_at(step, 7)
            rows = torch.stack([*vertices, vertex])
            loss = torch.stack([bowl(row @ rows) for row in draws[4 * step : 4 * step + 4]]).mean()
            volumes = []
            for member in members:
                edges = rows[list(member)][1:] - rows[member[0]]
                volumes.append((edges @ edges.T).det().sqrt() / math.factorial(len(member) - 1))
            weight = 0.0 if modes > 1 and stage == 0 else 0.05
            optimizer.zero_grad()
            (loss - weight * sum(volumes).log()).backward()
            optimizer.step()
            naive_losses.append(float(loss.detach()))
        vertices.append(vertex.detach())
    assert_close(growth.vertices, torch.stack(vertices))
    assert_close(torch.tensor(losses), torch.tensor(naive_losses))


def test_a_vertex_starts_beside_the_mean_at_right_angles_to_the_old_ones() -> None:
    given = points(cloud(3, 9) * 4)
    settings = SimplexSettings(1, 1, 1e-9, 0.0, 1)
    growth = Growth(given, ((0, 1, 2),), 1, AnalyticLandscape(bowl), settings, Alone())
    growth._ready(0)
    old, new = growth.vertices[:3], growth.vertices[3]
    away = new - old.mean(0)
    assert_close((old - old[0]) @ away, torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)
    assert_close(away.norm(), 0.01 * old.square().sum(1).mean().sqrt())


def test_along_a_flat_direction_the_decay_alone_bounds_the_height() -> None:
    """L = 0: the rest of λ log h against ½ γ ‖w‖² about the given point at zero is h = √(λ / γ)."""
    start = points(torch.zeros(1, 5, dtype=torch.float64))
    found = fit_simplex(
        start, AnalyticLandscape(lambda x: 0 * x.sum()), vertices=3, weight=0.02, decay=0.05, rate=0.5,
        steps=400, samples=1,
    )  # fmt: skip
    assert found.path.edge_lengths[0].item() == pytest.approx(math.sqrt(0.02 / 0.05), rel=1e-3)
    # The second: at right angles to the first edge e, the decay pulls its part along e to zero as well.
    assert found.path.heights[-1].item() == pytest.approx(math.sqrt(0.02 / 0.05), rel=1e-3)


def test_more_weight_gives_more_volume_and_none_gives_none() -> None:
    start, land = points(torch.zeros(1, 6, dtype=torch.float64)), AnalyticLandscape(bowl)
    volumes = [
        fit_simplex(start, land, weight=weight, steps=150, rate=0.1, decay=0.0).path.log_volume
        for weight in (0.0, 0.01, 0.1)
    ]
    assert all(two > one + 1 for one, two in pairwise(volumes))


def test_what_training_holds_still_stays(task) -> None:
    from torch import nn

    from conftest import blobs, mlp
    from isthmus import Recipe, Task

    def held() -> nn.Module:
        module = mlp()
        module[0].weight.requires_grad_(False)
        return module

    problem = Task(
        model=held, train=blobs(256, 1), test=blobs(200, 2), recipe=Recipe(epochs=2, batch=32), name="held"
    )
    start = train(problem, 1)
    found = fit_simplex(start, Landscape(problem), vertices=3, steps=10)
    for vertex in found.path.controls[1:]:
        assert_close(vertex["0.weight"], start["0.weight"], rtol=1e-6, atol=1e-6)
        assert not torch.equal(vertex["2.weight"], start["2.weight"])


# -- the contract of connectors ------------------------------------------------------------------------


FITS = {
    "simplex": lambda modes, land, **more: fit_simplex(modes[0], land, vertices=4, steps=40, seed=3, **more),
    "complex": lambda modes, land, **more: fit_complex(modes, land, connectors=2, steps=60, seed=3, **more),
    "simplexes": lambda modes, land, **more: fit_simplexes(modes, land, vertices=3, steps=30, seed=3, **more),
}


@pytest.fixture(params=FITS, ids=list(FITS))
def fit(request: pytest.FixtureRequest):
    return FITS[request.param]


@pytest.fixture
def modes(task) -> tuple[Weights, ...]:
    return train(task, 1), train(task, 2)


def same(one, two) -> bool:
    return all(x.equal(y) for x, y in zip(one.path.controls, two.path.controls, strict=True))


def test_given_points_are_kept_to_the_last_bit(fit, modes, task) -> None:
    found = fit(modes, Landscape(task))
    assert found.path.controls[0].equal(modes[0])
    kept = [any(control.equal(mode) for control in found.path.controls) for mode in modes]
    assert kept[1] or isinstance(found.path, Simplex)
    assert found.outcome is Outcome.COMPLETED
    assert len(found.history) > 0
    assert found.length == pytest.approx(float(found.path.edge_lengths.sum()))
    assert math.isfinite(found.path.log_volume)


def test_the_same_seed_gives_the_same_region_whatever_the_callers_randomness(fit, modes, task) -> None:
    one = fit(modes, Landscape(task))
    torch.manual_seed(99)
    two = fit(modes, Landscape(task))
    assert same(one, two)
    assert one.saddle == two.saddle or one.saddle.coordinates == two.saddle.coordinates


@pytest.mark.parametrize("after", [41, 61])
def test_a_kill_changes_nothing(fit, modes, task, tmp_path, after: int) -> None:
    whole = fit(modes, Landscape(task))
    with pytest.raises(Killed):
        fit(modes, Landscape(task), store=Killer(tmp_path / "state", after=after, every=1))
    resumed = fit(modes, Landscape(task), store=FileStore(tmp_path / "state"))
    assert same(resumed, whole)
    assert_close(resumed.history, whole.history, rtol=0, atol=0)
    assert resumed.saddle.loss == whole.saddle.loss


def test_it_runs_on_any_landscape(fit) -> None:
    land = AnalyticLandscape(lambda x: x.square().sum())
    found = fit(points(torch.tensor([[1.0, 0.0, 0.5, 2.0], [0.0, 1.0, 0.5, 2.0]])), land)
    assert found.outcome is Outcome.COMPLETED
    assert found.path.volume > 0


def test_the_saddle_is_the_highest_of_fresh_points_on_the_training_data(fit, modes, task) -> None:
    land = Landscape(task)
    found = fit(modes, land)
    assert isinstance(found.saddle, InsideSaddle)
    assert found.saddle.split == "train"
    at = found.path.at(torch.tensor([found.saddle.coordinates], dtype=torch.float64))
    measured = land.evaluate(at, "train")
    assert float(measured.mean_loss) == pytest.approx(found.saddle.loss, rel=1e-6)
    assert float(measured.mean_error) == pytest.approx(found.saddle.error, abs=1e-9)
    if isinstance(found.path, Simplex):
        others = found.path.at(found.path.draw(20, seeded(3, "saddle")))
        assert found.saddle.loss == pytest.approx(float(land.evaluate(others, "train").mean_loss.max()))


def test_a_network_with_batch_norm_and_dropout(image_task) -> None:
    modes = train(image_task, 1), train(image_task, 2)
    for policy in ("recalibrate", "interpolate"):
        found = fit_complex(modes, Landscape(image_task, batchnorm=policy), steps=4, inside=3)
        assert found.outcome is Outcome.COMPLETED
        assert math.isfinite(found.saddle.loss)


def test_a_complex_is_lower_than_the_line(modes, task) -> None:
    land = Landscape(task)
    found = fit_complex(modes, land, connectors=2, steps=150, seed=3)
    line, route = (
        barrier(profile(path, land, split="train")).height
        for path in (Segment(*modes), found.path.route(0, 1))
    )
    assert route < 0.8 * line


def test_the_connector_is_the_function_with_its_settings_held(modes, task) -> None:
    one = SimplexConnector(connectors=2, steps=20, seed=3, inside=0).connect(modes, Landscape(task))
    two = fit_complex(modes, Landscape(task), connectors=2, steps=20, seed=3, inside=0)
    assert same(one, two)
    assert one.saddle is None


def test_the_first_vertices_are_those_of_a_smaller_simplex(modes, task) -> None:
    large, small = (
        fit_simplex(modes[0], Landscape(task), vertices=count, steps=15, inside=0) for count in (4, 3)
    )
    assert all(x.equal(y) for x, y in zip(large.path.controls, small.path.controls, strict=False))


def test_given_points_of_one_region_become_vertices(task) -> None:
    start = train(task, 1)
    near = start + random_weights(start, 1) * 0.05
    found = fit_simplex([start, near], Landscape(task), vertices=4, steps=15)
    assert found.path.controls[0].equal(start)
    assert found.path.controls[1].equal(near)
    assert len(found.path.controls) == 4


def test_a_fit_that_diverges_says_so_and_keeps_what_was_finished(modes, task) -> None:
    found = fit_simplex(modes[0], Landscape(task), vertices=4, steps=30, rate=1e9)
    assert found.outcome is Outcome.DIVERGED
    assert found.saddle is None
    assert len(found.path.controls) == 2


def test_the_points_of_an_ensemble_come_from_every_simplex(modes, task) -> None:
    found = fit_simplexes(modes, Landscape(task), vertices=3, steps=10)
    assert found.path.simplexes == ((0, 1, 2), (3, 4, 5))
    assert len(found.path.sample(4)) == 4
    assert found.settings["networks"] == 2
    alone = fit_simplexes(modes[:1], Landscape(task), vertices=3, steps=10)
    assert all(x.equal(y) for x, y in zip(alone.path.controls, found.path.controls, strict=False))


def test_refusals(modes, task) -> None:
    land = Landscape(task)
    for expected, refused in (
        ("no points to grow", lambda: fit_simplex([], land)),
        (
            "at least 2 vertices, one more than is given, got 1",
            lambda: fit_simplex(modes[0], land, vertices=1),
        ),
        ("at least 3 vertices", lambda: fit_simplex(modes, land, vertices=2)),
        (
            "weight of the log-volume must be 0 or more, got -1",
            lambda: fit_simplex(modes[0], land, weight=-1),
        ),
        ("at least 1 sample", lambda: fit_simplex(modes[0], land, samples=0)),
        ("give epochs, or a number of steps", lambda: fit_simplex(modes[0], land, steps=0)),
        ("the simplex's rate must be above 0", lambda: fit_simplex(modes[0], land, rate=-1.0)),
        ("must be 0 .none. or more", lambda: fit_simplex(modes[0], land, inside=-1)),
        ("joins at least 2 networks, got 1", lambda: fit_complex(modes[:1], land)),
        ("at least 1 connector", lambda: fit_complex(modes, land, connectors=0)),
        ("points 1 and 2 are the same weights", lambda: fit_complex([modes[0], modes[0]], land)),
        ("points 1 and 3 are the same", lambda: fit_simplex([*modes, modes[0]], land)),
        ("no networks to grow", lambda: fit_simplexes([], land)),
        ("expected 0 <= momentum < 1", lambda: SimplexConnector(momentum=1.0).connect(modes, land)),
        ("at least 1 point to draw", lambda: find_saddle_inside(Segment(*modes), land, 0)),
    ):
        with pytest.raises(SettingError, match=expected):
            refused()
    other = Weights.from_state_dict({"x": torch.zeros(3)})
    with pytest.raises(LayoutError):
        fit_complex([modes[0], other], land)


def test_a_space_too_small_for_the_simplex_is_refused() -> None:
    land = AnalyticLandscape(bowl)
    with pytest.raises(SettingError, match="simplex of 4 vertices needs 3 parameters or more"):
        fit_simplex(points(torch.zeros(1, 2, dtype=torch.float64)), land, vertices=4, steps=3)
