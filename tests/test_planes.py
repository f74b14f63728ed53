"""Planes through three models: the grid, what is projected on it, the scale, and coarse to fine."""

import math
from collections import deque
from dataclasses import replace

import pytest
import torch

from conftest import Killed, Killer, mlp
from isthmus import Landscape, Weights
from isthmus.errors import LayoutError, SettingError
from isthmus.experiments.train import train
from isthmus.io.records import read_record, records_equal, write_record
from isthmus.io.state import FileStore
from isthmus.landscape import AnalyticLandscape, Evaluation
from isthmus.path import Bezier, Plane
from isthmus.path.plane import plane
from isthmus.report.planes import surface_figure
from isthmus.surfaces import Surface, scale_of, scan, scan_plane, scan_splits
from isthmus.surfaces.kriging import krige


def point(*coordinates):
    return Weights.from_state_dict({"w": torch.tensor(coordinates, dtype=torch.float64)})


def flat(a=(0.0, 0.0), b=(1.0, 0.0), c=(0.5, 1.0)):
    return plane(point(*a), point(*b), point(*c))


def bowl(w):
    return (w - torch.tensor([0.4, 0.3], dtype=w.dtype)).square().sum() + 0.01


def double_well(w):
    return (4 * (w[0] - 0.5).square() - 1).square() + 2 * (w[1] - 0.2).square() + 0.02


def egg_carton(w):
    return 1.05 - torch.cos(3.5 * w[0]) * torch.cos(3.5 * w[1])


def muller_brown(w):
    """The four Gaussians of Müller and Brown 1979, in their units, over [0, 1]²: it reaches below zero."""
    x, y = 2.2 * w[0] - 1.2, 2 * w[1] - 0.2
    parts = (
        (-200, -1, 0, -10, 1, 0), (-100, -1, 0, -10, 0, 0.5), (-170, -6.5, 11, -6.5, -0.5, 1.5),
        (15, 0.7, 0.6, 0.7, -1, 1),
    )  # fmt: skip
    return sum(
        k * torch.exp(a * (x - p) ** 2 + b * (x - p) * (y - q) + c * (y - q) ** 2)
        for k, a, b, c, p, q in parts
    )


SURFACES = [bowl, double_well, egg_carton, muller_brown]


@pytest.fixture(scope="module")
def trained():
    """A task and four trained models of it."""
    from conftest import blobs
    from isthmus import Recipe, Task

    recipe = Recipe(epochs=6, batch=32, rate=0.1, weight_decay=5e-3)
    problem = Task(model=mlp, train=blobs(256, 1), test=blobs(200, 2), recipe=recipe, name="blobs")
    return problem, [train(problem, seed) for seed in (1, 2, 3, 4)]


# -- the grid -----------------------------------------------------------------------------------


def test_a_scan_is_two_loops_over_the_plane(trained):
    task, models = trained
    land, through = Landscape(task), plane(*models[:3])
    surface = scan_plane(through, land, resolution=5)
    assert (surface.split, surface.examples, surface.batchnorm) == ("test", 200, "none")
    for row, y in enumerate(surface.y.tolist()):
        for column, x in enumerate(surface.x.tolist()):
            found = land.evaluate([through(x, y)], "test")
            torch.testing.assert_close(surface.loss[row, column], found.mean_loss[0])
            torch.testing.assert_close(surface.error[row, column], found.mean_error[0])
            norm = through(x, y).vector.double().square().sum()
            torch.testing.assert_close(surface.squares[row, column], norm, rtol=1e-5, atol=1e-5)
            spread = found.loss[0].double().std() / math.sqrt(200)
            torch.testing.assert_close(surface.loss_spread[row, column], spread)


def test_the_models_themselves_are_evaluated_to_the_last_bit(trained):
    task, models = trained
    land = Landscape(task)
    surface = scan_plane(plane(*models[:3]), land, resolution=4, split="train", models={"D": models[3]})
    for index in range(3):
        found = land.evaluate([models[index]], "train")
        assert surface.corner_loss[index] == found.mean_loss[0]
        assert surface.corner_error[index] == found.mean_error[0]
    (fourth,) = surface.models
    assert fourth.loss == land.evaluate([models[3]], "train").mean_loss[0]


def test_the_grid_covers_the_models_with_square_cells_and_a_margin():
    surface = scan_plane(flat((0, 0), (4, 0), (1, 2)), AnalyticLandscape(bowl), resolution=21, margin=0.25)
    assert (float(surface.x[0]), float(surface.x[-1])) == (-1.0, 5.0)
    assert (float(surface.y[0]), float(surface.y[-1])) == (-1.0, 3.0)
    across, up = float(surface.x.diff()[0]), float(surface.y.diff()[0])
    assert across == pytest.approx(0.3)
    assert up == pytest.approx(across, rel=0.05)


def test_an_analytic_landscape_has_its_known_values():
    surface = scan_plane(flat(), AnalyticLandscape(bowl), resolution=9)
    grid = torch.stack(torch.meshgrid(surface.x, surface.y, indexing="xy"), dim=-1)
    known = (grid - torch.tensor([0.4, 0.3])).square().sum(-1) + 0.01
    torch.testing.assert_close(surface.loss, known)
    assert surface.interpolated is None
    assert surface.evaluations == surface.nodes == surface.loss.numel()


def test_both_splits_share_the_nodes_and_the_batch_norm_statistics(image_task, monkeypatch):
    import isthmus.landscape.network as network

    calls = []
    measure = network.recalibrate
    monkeypatch.setattr(network, "recalibrate", lambda *a: calls.append(1) or measure(*a))
    models = [Weights.from_module(image_task.build(seed)) for seed in (1, 2, 3)]
    land = Landscape(image_task)
    held_out, fitted = scan_splits(plane(*models), land, resolution=3)
    assert torch.equal(held_out.x, fitted.x)
    assert (held_out.split, fitted.split, held_out.batchnorm) == ("test", "train", "recalibrate")
    assert len(calls) == held_out.nodes + 3, "once a node and once a model, for both splits"
    alone = scan_plane(plane(*models), Landscape(image_task), resolution=3, split="train")
    torch.testing.assert_close(alone.loss, fitted.loss)


def test_a_fan_out_changes_nothing():
    class Two:
        workers = 2

        def map(self, function, items):
            return [function(item) for item in items]

    def scanned(fanout):
        return scan_plane(flat(), AnalyticLandscape(egg_carton), resolution=7, fanout=fanout)

    assert records_equal(scanned(None), scanned(Two()))


def test_a_loss_that_is_not_finite_is_drawn():
    def cliff(w):
        return torch.where(w[0] > 0.8, torch.tensor(math.inf, dtype=w.dtype), w.square().sum() + 0.1)

    surface = scan_plane(flat(), AnalyticLandscape(cliff), resolution=7)
    assert surface.loss.isinf().any()
    for view in ("map", "relief"):
        heights = torch.tensor(surface_figure(surface, view=view).data[0].z)
        assert heights.isfinite().all()
        assert bool((heights[surface.loss.isinf()] == heights.max()).all())
    refined = scan_plane(flat(), AnalyticLandscape(cliff), resolution=7, precision=0.05)
    assert refined.loss.isinf().any()
    with pytest.raises(SettingError, match="no value of this surface is finite"):
        surface_figure(replace(surface, loss=torch.full_like(surface.loss, math.nan)))


@pytest.mark.parametrize("precision", [None, 0.2])
def test_a_kill_changes_nothing(trained, tmp_path, precision):
    task, models = trained
    through, land = plane(*models[:3]), Landscape(task)

    def scanned(store):
        return scan_splits(
            through, land, resolution=13, precision=precision, store=store, models={"D": models[3]}
        )

    whole = scanned(None)
    with pytest.raises(Killed):
        scanned(Killer(tmp_path / "state.safetensors", 2))
    assert (tmp_path / "state.safetensors").exists()
    resumed = scanned(FileStore(tmp_path / "state.safetensors"))
    assert all(records_equal(*pair) for pair in zip(whole, resumed, strict=True))
    assert not (tmp_path / "state.safetensors").exists()


def test_a_kill_in_the_midst_of_a_round_chooses_the_same_nodes(monkeypatch, tmp_path):
    """A round is eight nodes or more; with chunks of three, most kills fall inside one."""
    monkeypatch.setattr(scan, "_CHUNK", 3)
    evaluate, chunks = scan._Scan._evaluate, []

    def counted(self, chunk, *rest):
        chunks.append(chunk)
        if len(chunks) == dies_at:
            raise Killed
        evaluate(self, chunk, *rest)

    def scanned(store):
        land = AnalyticLandscape(egg_carton)
        return scan_splits(flat(), land, resolution=15, precision=0.05, splits=["train"], store=store)

    monkeypatch.setattr(scan._Scan, "_evaluate", counted)
    dies_at = 0
    whole = scanned(None)
    total = len(chunks)
    assert total > 12
    for dies_at in range(total - 5, total + 1):
        chunks.clear()
        path = tmp_path / f"{dies_at}.safetensors"
        with pytest.raises(Killed):
            scanned(Killer(path, after=1000))
        assert path.exists()
        chunks.clear()
        dies_at = 0
        assert records_equal(whole[0], scanned(FileStore(path))[0])
        assert len(chunks) < total


# -- what is projected --------------------------------------------------------------------------


def test_paths_and_models_are_projected_with_their_distance():
    a, b, c = point(0, 0, 0), point(2, 0, 0), point(0, 1, 0)
    through = plane(a, b, c)
    inside, outside = Bezier((a, point(1, 2, 0), b)), Bezier((a, point(1, 2, 4), b))
    land = AnalyticLandscape(lambda w: w.square().sum())
    surface = scan_plane(
        through, land, curve=inside, paths={"off": outside}, models={"D": point(1, -3, 2)}, resolution=5
    )
    assert surface.gap == pytest.approx(0, abs=1e-7)
    off, model = surface.projected
    assert (off.name, off.kind, model.name, model.kind) == ("off", "path", "D", "model")
    t = torch.linspace(0, 1, 61, dtype=torch.float64)
    naive = torch.tensor([through.project(outside(float(s))) for s in t], dtype=torch.float64)
    torch.testing.assert_close(off.points, naive[:, :2])
    torch.testing.assert_close(off.distance, naive[:, 2])
    torch.testing.assert_close(off.distance, 8 * t * (1 - t))
    assert model.points.tolist() == [[1.0, -3.0]]
    assert (model.gap, model.loss) == (2.0, 14.0)
    assert float(surface.y[0]) < -3, "the grid covers what is projected"


def test_the_distance_of_a_path_is_its_own_and_not_a_bound():
    """Controls off the plane on both sides: the path's middle lies in it."""
    a, b, c = point(0, 0, 0), point(3, 0, 0), point(0, 1, 0)
    wave = Bezier((a, point(1, 0, 5), point(2, 0, -5), b))
    surface = scan_plane(plane(a, b, c), AnalyticLandscape(bowl_of_three), curve=wave, resolution=3)
    through = torch.tensor([wave(float(s))["w"][2].abs() for s in torch.linspace(0, 1, 61)])
    assert surface.gap == pytest.approx(float(through.max()))


def bowl_of_three(w):
    return w.square().sum()


# -- the scale ----------------------------------------------------------------------------------


def test_values_that_span_a_power_of_ten_keep_their_own_logarithm():
    values = torch.tensor([0.02, 0.5, 3.0], dtype=torch.float64)
    scale = scale_of(values)
    assert scale.shift == 0
    torch.testing.assert_close(scale.place(values), values.log10())
    torch.testing.assert_close(scale.value(scale.place(values)), values)


def test_a_scale_ends_four_powers_of_ten_below_the_highest():
    scale = scale_of(torch.tensor([1e-9, 10.0], dtype=torch.float64))
    assert (scale.low, scale.high) == (-3.0, 1.0)


@pytest.mark.parametrize("values", [[-5.0, 0.0, 3.0], [0.0, 1.0], [1.0, 1.5], [7.0, 7.0], [0.0, 0.0], [-1.0]])
def test_any_values_have_a_scale(values):
    values = torch.tensor(values, dtype=torch.float64)
    scale = scale_of(values)
    heights = scale.place(values)
    assert heights.isfinite().all()
    assert scale.range > 0
    torch.testing.assert_close(scale.value(heights), values)
    assert bool((scale.levels.diff() > 0).all())


def test_a_linear_scale_is_the_values():
    values = torch.tensor([-5.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(scale_of(values, log=False).place(values), values)


def enclosed(surface, of, corner):
    """Contour levels at which the region around a model reaches neither the border nor another model."""
    scale = scale_of(surface.values(of))
    heights = scale.place(surface.values(of))
    near = [
        (int((surface.y - y).abs().argmin()), int((surface.x - x).abs().argmin()))
        for x, y in surface.corners.tolist()
    ]
    found = []
    for level in scale.levels.tolist():
        start = near[corner]
        if heights[start] > level:
            continue
        seen, queue = {start}, deque([start])
        while queue:
            i, j = queue.popleft()
            for cell in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
                inside = 0 <= cell[0] < len(surface.y) and 0 <= cell[1] < len(surface.x)
                if inside and cell not in seen and heights[cell] <= level:
                    seen.add(cell)
                    queue.append(cell)
        border = any(i in (0, len(surface.y) - 1) or j in (0, len(surface.x) - 1) for i, j in seen)
        if not border and not any(near[k] in seen for k in range(3) if k != corner):
            found.append(level)
    return found


def test_contours_close_around_each_basin_of_an_analytic_landscape():
    """Three wells of different depth, none at zero, the highest a hundredth of the wall above the lowest."""
    wells = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 1.0]], dtype=torch.float64)
    depth = torch.tensor([0.0, 0.005, 0.01], dtype=torch.float64)

    def three(w):
        return 0.5 + ((w - wells).square().sum(1) * 4 + depth).min()

    surface = scan_plane(flat(), AnalyticLandscape(three), resolution=21)
    assert all(enclosed(surface, "loss", k) for k in range(3))


def test_contours_of_the_objective_close_around_each_trained_model(trained):
    task, models = trained
    surface = scan_plane(plane(*models[:3]), Landscape(task), split="train", margin=0.6)
    assert surface.decay == task.recipe.weight_decay
    assert all(enclosed(surface, "objective", k) for k in range(3))


# -- coarse to fine -----------------------------------------------------------------------------


def test_kriging_passes_through_what_is_known_and_continues_a_trend():
    grid = torch.rand(30, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    heights = 2 + 3 * grid[:, 0] - grid[:, 1]
    again = krige(grid, heights, grid)
    torch.testing.assert_close(again.mean, heights, rtol=1e-4, atol=1e-4)
    other = torch.rand(9, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = krige(grid, heights, other)
    torch.testing.assert_close(found.mean, 2 + 3 * other[:, 0] - other[:, 1], rtol=1e-4, atol=1e-4)
    assert float(found.half.max()) < 1e-3


def test_kriging_is_the_conditional_mean_written_out():
    """Against the textbook's equations, solved one place at a time, at the settings that it chose."""
    from isthmus.surfaces import kriging

    grid = torch.rand(25, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    heights = torch.sin(4 * grid[:, 0]) + grid[:, 1].square()
    place = torch.tensor([[0.4, 0.6]], dtype=torch.float64)
    found = krige(grid, heights, place)
    naive = []
    for length in kriging._LENGTHS:
        for nugget in kriging._NUGGETS:
            size = len(grid)
            system = torch.zeros(size + 3, size + 3, dtype=torch.float64)
            right = torch.zeros(size + 3, dtype=torch.float64)
            for i in range(size):
                for j in range(size):
                    r = math.sqrt(5) * float((grid[i] - grid[j]).norm()) / length
                    system[i, j] = (1 + r + r * r / 3) * math.exp(-r) + (nugget if i == j else 0)
                system[i, size:] = torch.tensor([1.0, *grid[i].tolist()])
                system[size:, i] = system[i, size:]
                r = math.sqrt(5) * float((grid[i] - place[0]).norm()) / length
                right[i] = (1 + r + r * r / 3) * math.exp(-r)
            right[size:] = torch.tensor([1.0, *place[0].tolist()])
            naive.append(float(torch.linalg.solve(system, right)[:size] @ heights))
    assert min(abs(float(found.mean[0]) - each) for each in naive) < 1e-6


def within(coarse, full, of="loss"):
    """The share of interpolated nodes whose interval holds the value of the full protocol."""
    low, high = coarse.interval(of)
    rest = ~coarse.interpolated.evaluated
    held = (low <= full.values(of) + 1e-12) & (full.values(of) <= high + 1e-12)
    return float(held[rest].double().mean()) if bool(rest.any()) else 1.0


@pytest.mark.parametrize("function", SURFACES, ids=lambda f: f.__name__)
def test_coarse_to_fine_is_the_full_scan_within_its_intervals(function):
    land = AnalyticLandscape(function)
    full = scan_plane(flat(), land, resolution=31)
    coarse = scan_plane(flat(), land, resolution=31, precision=0.05)
    known = coarse.interpolated
    assert torch.equal(coarse.loss[known.evaluated], full.loss[known.evaluated])
    assert coarse.evaluations == int(known.evaluated.sum()) < 0.5 * full.nodes
    assert known.reached <= known.precision == 0.05
    assert within(coarse, full) >= 0.95
    scale = scale_of(full.loss)
    off = (scale.place(coarse.loss) - scale.place(full.loss)).abs() / scale.range
    assert float(off.square().mean().sqrt()) < 0.05


def test_coarse_to_fine_on_trained_networks_holds_for_both_quantities_and_splits(trained):
    task, models = trained
    through, land = plane(*models[:3]), Landscape(task)
    full = scan_splits(through, land)
    coarse = scan_splits(through, land, precision=0.1)
    for one, whole in zip(coarse, full, strict=True):
        assert one.evaluations < 0.5 * whole.nodes
        for of in ("loss", "error", "objective"):
            assert within(one, whole, of) >= 0.95
            assert torch.equal(
                one.values(of)[one.interpolated.evaluated], whole.values(of)[one.interpolated.evaluated]
            )


def test_a_closer_precision_evaluates_more_nodes_until_all_are():
    land = AnalyticLandscape(egg_carton)
    spent = [
        scan_plane(flat(), land, resolution=15, precision=p).evaluations for p in (0.3, 0.05, 0.01, 1e-9)
    ]
    assert spent == sorted(spent)
    assert spent[0] < spent[-1] == 225


def test_nodes_are_spent_near_contours_and_not_on_plains():
    """A step along x: the nodes go where it is steep."""
    land = AnalyticLandscape(lambda w: torch.sigmoid(25 * (w[0] - 0.5)) + 0.1 + 0 * w[1])
    surface = scan_plane(flat(), land, resolution=31, precision=0.03)
    steep = (surface.x - 0.5).abs() < 0.25
    dense = surface.interpolated.evaluated.double()
    assert float(dense[:, steep].mean()) > 1.5 * float(dense[:, ~steep].mean())


def test_a_refined_surface_is_kept_and_read_back(tmp_path):
    surface = scan_plane(
        flat(), AnalyticLandscape(bowl), resolution=11, precision=0.1, models={"D": point(1, 1)}
    )
    write_record(surface, tmp_path / "s.json")
    assert records_equal(read_record(tmp_path / "s.json", Surface), surface)
    assert "of them evaluated" in repr(surface)


def test_a_map_says_which_nodes_are_interpolated():
    surface = scan_plane(flat(), AnalyticLandscape(double_well), resolution=21, precision=0.1)
    figure = surface_figure(surface)
    told = [text for row in figure.data[0].hovertext for text in row]
    assert sum("interpolated" in text for text in told) == surface.nodes - surface.evaluations > 0
    dots = next(t for t in figure.data if t.name.startswith("evaluated"))
    assert len(dots.x) == surface.evaluations


def test_the_objective_is_the_loss_with_its_decay():
    surface = scan_plane(flat(), AnalyticLandscape(bowl), resolution=5)
    land = AnalyticLandscape(bowl)
    grid = torch.stack(torch.meshgrid(surface.x, surface.y, indexing="xy"), dim=-1)
    decayed = surface.loss + 0.5 * land.recipe.weight_decay * grid.square().sum(-1)
    torch.testing.assert_close(surface.values("objective"), decayed)
    low, high = surface.interval("objective")
    assert torch.equal(low, surface.values("objective"))
    assert torch.equal(high, low)
    with pytest.raises(SettingError, match="no norms of its weights"):
        surface_figure(replace(surface, squares=None), of="objective")


def test_an_interval_counts_the_examples():
    generator = torch.Generator().manual_seed(1)

    class Noisy(AnalyticLandscape):
        def evaluate(self, points, split="test", fanout=None, progress=None):
            loss = 1 + torch.rand(len(points), 400, generator=generator, dtype=torch.float64)
            return Evaluation(loss, (loss > 1.999).double(), split)

    surface = scan_plane(flat(), Noisy(bowl), resolution=5)
    low, high = surface.interval()
    torch.testing.assert_close(
        (high - low) / 2, torch.full_like(low, 1.96 / math.sqrt(12 * 400)), rtol=0.1, atol=0
    )
    low, high = surface.interval("error")
    assert bool((low >= 0).all())
    assert bool((high > 0).all()), "no wrong example does not mean an error of exactly none"


# -- bad input ----------------------------------------------------------------------------------


def test_bad_input_is_refused_in_a_sentence():
    a, b = point(0, 0), point(1, 0)
    with pytest.raises(SettingError, match="three models that do not lie on one line"):
        plane(a, b, point(2, 0))
    with pytest.raises(SettingError, match="three models that do not lie on one line"):
        plane(a, a, b)
    with pytest.raises(LayoutError, match="one architecture"):
        plane(a, b, point(0, 0, 1))
    with pytest.raises(SettingError, match="are Weights, got Linear"):
        plane(a, b, torch.nn.Linear(2, 2))
    land, through = AnalyticLandscape(bowl), flat()
    for wrong, words in (
        ({"resolution": 2}, "resolution of at least 3"),
        ({"margin": -0.1}, "margin >= 0"),
        ({"margin": math.nan}, "margin >= 0"),
        ({"precision": 0}, "between 0 and 1"),
        ({"precision": 2}, "between 0 and 1"),
        ({"of": "accuracy"}, "of='loss' or of='error'"),
        ({"split": "validation"}, "'train' or 'test'"),
    ):
        with pytest.raises(SettingError, match=words):
            scan_plane(through, land, **wrong)
    with pytest.raises(SettingError, match="no split"):
        scan_splits(through, land, splits=())
    with pytest.raises(LayoutError, match="one architecture"):
        scan_plane(through, land, models={"D": point(0, 0, 1)})
    with pytest.raises(LayoutError, match="one architecture"):
        scan_plane(through, land, curve=Bezier((point(0, 0, 1), point(0, 1, 1), point(1, 1, 1))))
    assert isinstance(through, Plane)
