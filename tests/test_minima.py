"""Many minima: the tree against brute force, the order of attacks, resuming, the disconnectivity graph."""

import itertools
import math
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from conftest import Killed, Killer
from isthmus import AnalyticLandscape, CurveConnector, Landscape, Segment, Task, Weights, save_weights, train
from isthmus.connect.abstract import AbstractConnector, Connection, Outcome, Saddle
from isthmus.connect.band import BandConnector
from isthmus.connect.minima import minima_tree
from isthmus.connect.spanning import Edge, Ending, MinimaTree, tree_of
from isthmus.errors import LayoutError, SettingError
from isthmus.experiments.minima import MinimaSettings, load_paths, study_minima
from isthmus.experiments.minimarecords import MinimaStudy
from isthmus.io.checkpoints import read_checkpoint
from isthmus.io.records import read_record, records_equal, write_record
from isthmus.io.runs import Run
from isthmus.io.state import FileStore
from isthmus.path import Bezier
from isthmus.report.disconnectivity import branches, disconnectivity_figure, heights_figure
from isthmus.report.formats import plain_loss
from isthmus.report.minima import minima_page, ratio_sentence, short_names

# -- a connector whose saddles are given ------------------------------------------------------------


def weights_at(position) -> Weights:
    return Weights.from_state_dict({"x": torch.tensor(position, dtype=torch.float64)})


@dataclass(frozen=True, eq=False)
class Given(AbstractConnector):
    """Joins point i and point j (their coordinate is their number) by a line with a saddle from a table."""

    heights: torch.Tensor
    asked: list

    def connect(self, points, landscape, *, store=None, progress=None) -> Connection:
        i, j = (int(point["x"][0]) for point in points)
        self.asked.append((i, j))
        height = float(self.heights[i, j])
        outcome = Outcome.COMPLETED if math.isfinite(height) else Outcome.DIVERGED
        saddle = Saddle(height, 0.0, 0.25, "train", 1, 3)
        return Connection(Segment(*points), outcome, torch.zeros(1), 7, {}, saddle)


def table(entries: dict[tuple[int, int], float], count: int) -> torch.Tensor:
    heights = torch.full((count, count), math.inf, dtype=torch.float64)
    for (i, j), value in entries.items():
        heights[i, j] = heights[j, i] = value
    return heights


def random_heights(count: int, seed: int) -> torch.Tensor:
    drawn = torch.rand(count, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 2
    return torch.triu(drawn, 1) + torch.triu(drawn, 1).T


def numbered(count: int) -> list[Weights]:
    """Points with their number in one coordinate; the land is lowest at number 0."""
    return [weights_at((float(k), 0.3 * (k % 2))) for k in range(count)]


def grown(heights: torch.Tensor, most: int | None = None) -> tuple[MinimaTree, list[tuple[int, int]]]:
    asked: list[tuple[int, int]] = []
    land = AnalyticLandscape(lambda x: 0.01 * (1 + x[0]))
    tree = minima_tree(numbered(len(heights)), land, connector=Given(heights, asked), most=most)
    return tree, asked


def brute_force(count: int, edges: list[Edge]) -> torch.Tensor:
    """The lowest highest edge over every way, by Floyd and Warshall's recursion, written naively."""
    best = torch.full((count, count), math.inf, dtype=torch.float64)
    for edge in edges:
        best[edge.first, edge.second] = best[edge.second, edge.first] = edge.height
    for k, i, j in itertools.product(range(count), repeat=3):
        best[i, j] = min(best[i, j], max(best[i, k], best[k, j]))
    return best


def off_diagonal(matrix: torch.Tensor) -> torch.Tensor:
    return matrix[~torch.eye(len(matrix), dtype=torch.bool)]


# -- the tree ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("most", [None, 5, 8])
def test_heights_are_the_minimax_over_all_ways_of_tested_pairs(seed: int, most: int | None) -> None:
    heights = random_heights(6, seed)
    tree, asked = grown(heights, most)
    assert len(set(asked)) == len(asked) == len(tree.edges) == (most or 15)
    assert torch.equal(off_diagonal(tree.heights), off_diagonal(brute_force(6, list(tree.edges))))
    assert torch.equal(tree.heights.diagonal(), tree.losses)
    assert tree.ending is (Ending.BUDGET_USED if most else Ending.ALL_TESTED)
    assert len(tree.spanning) == 5
    for i, j, k in itertools.permutations(range(6), 3):
        assert tree.heights[i, j] <= max(tree.heights[i, k], tree.heights[k, j])


def test_more_edges_never_raise_a_height() -> None:
    heights = random_heights(7, 3)
    trees = [grown(heights, most)[0] for most in range(6, 22)]
    for one, two in itertools.pairwise(trees):
        assert [e.pair for e in one.edges] == [e.pair for e in two.edges[:-1]]
        assert bool((two.heights <= one.heights).all())


def test_the_star_comes_first_and_then_the_highest_edge_is_attacked() -> None:
    heights = table({(0, 1): 3, (0, 2): 9, (0, 3): 5, (1, 2): 4, (2, 3): 2, (1, 3): 8}, 4)
    tree, asked = grown(heights)
    assert asked[:3] == [(0, 1), (0, 2), (0, 3)]
    # 9 is the highest and cuts off 2: (1, 2) and (2, 3) cross and are equally near, so the first is tested.
    # Then 5 is the highest and cuts off 3: (2, 3). The tree is then 2, 3, 4, and only (1, 3) is left.
    assert asked[3:] == [(1, 2), (2, 3), (1, 3)]
    assert [e.attacks for e in tree.edges] == [(), (), (), (0, 2), (0, 3), (1, 2)]
    assert [e.pair for e in tree.tree_edges] == [(2, 3), (0, 1), (1, 2)]
    assert [e.height for e in tree.tree_edges] == [2, 3, 4]
    assert tree.way(0, 3) == (0, 1, 2, 3)
    assert tree.heights[0, 3] == 4


def test_the_best_minimum_is_the_stars_centre() -> None:
    land = AnalyticLandscape(lambda x: (x[0] - 2) ** 2)
    asked: list[tuple[int, int]] = []
    tree = minima_tree(numbered(4), land, connector=Given(random_heights(4, 1) + 9, asked), most=3)
    assert tree.best == 2
    assert asked == [(0, 2), (1, 2), (2, 3)]


def test_a_diverged_edge_is_kept_out_and_its_parts_are_joined_first() -> None:
    heights = table({(0, 1): 3, (0, 2): math.inf, (0, 3): 8, (1, 2): 4, (1, 3): 5, (2, 3): 6}, 4)
    tree, asked = grown(heights, 4)
    assert asked[3] == (1, 2), "a missing edge is higher than any other"
    assert tree.edges[3].attacks == ()
    assert not tree.edges[1].joins
    assert tree.edges[1].outcome is Outcome.DIVERGED
    assert tree.edges[1].saddle is None
    assert 1 not in tree.spanning
    assert tree.heights.isfinite().all()

    alone, _ = grown(table({(0, 1): 3}, 3))
    assert alone.ending is Ending.ALL_TESTED
    assert alone.spanning == (0,)
    assert alone.heights[0, 2] == math.inf
    assert alone.way(0, 2) == ()
    assert alone.path(0, 2) == ()


def test_pairs_that_no_path_could_lower_are_not_tested() -> None:
    """Without barriers every edge is as high as its higher end, so the star is certainly the lowest tree."""
    land = AnalyticLandscape(lambda x: 0.01 * (1 + x[0]))
    asked: list[tuple[int, int]] = []
    tree = minima_tree(numbered(5), land, connector=Given(torch.zeros(5, 5), asked))
    assert asked == [(0, 1), (0, 2), (0, 3), (0, 4)]
    assert tree.ending is Ending.NONE_CAN_LOWER
    for i, j in itertools.combinations(range(5), 2):
        assert tree.heights[i, j] == max(tree.losses[i], tree.losses[j])


@pytest.mark.parametrize("seed", range(8))
def test_leaving_such_pairs_out_changes_no_height(seed: int) -> None:
    """Saddles as low as minima: the tree of the pairs tested is the tree of all pairs."""
    land = AnalyticLandscape(lambda x: 2 + 0.2 * x[0])
    heights = random_heights(6, seed)
    tree = minima_tree(numbered(6), land, connector=Given(heights, []))
    losses = tree.losses
    every = [
        Edge(i, j, (), max(float(heights[i, j]), float(losses[i]), float(losses[j])), None, Outcome.COMPLETED,
             0, 0.0, 0.0)
        for i, j in itertools.combinations(range(6), 2)
    ]  # fmt: skip
    assert torch.equal(off_diagonal(tree.heights), off_diagonal(brute_force(6, every)))
    assert len(tree.edges) < 15


def test_a_path_that_only_falls_counts_as_high_as_its_end() -> None:
    land = AnalyticLandscape(lambda x: x[0])
    tree = minima_tree(numbered(2), land, connector=Given(table({(0, 1): 0.5}, 2), []))
    assert tree.heights[0, 1] == 1


def test_paths_go_along_the_tree_in_the_asked_direction() -> None:
    tree, _ = grown(table({(0, 1): 3, (0, 2): 9, (1, 2): 4}, 3))
    there, back = tree.path(0, 2), tree.path(2, 0)
    assert [c.path(0)["x"][0].item() for c in there] == [0, 1]
    assert [c.path(1)["x"][0].item() for c in there] == [1, 2]
    assert [c.path(0)["x"][0].item() for c in back] == [2, 1]
    assert back[0].saddle is not None
    assert back[0].saddle.t == 0.75
    assert tree.path(1, 1) == ()
    with pytest.raises(SettingError, match="numbers from 0 to 2, got 3"):
        tree.way(0, 3)


def test_a_turned_curve_is_the_same_curve(task: Task) -> None:
    points = [train(task, seed) for seed in (1, 2)]
    tree = minima_tree(points, Landscape(task), connector=CurveConnector("bezier", bends=2, steps=5))
    (there,), (back,) = tree.path(0, 1), tree.path(1, 0)
    assert isinstance(back.path, Bezier)
    torch.testing.assert_close(there.path(0.3).vector, back.path(0.7).vector)
    assert back.path(0).equal(points[1])


# -- landscapes with known passes --------------------------------------------------------------------


def tilted_carton(x: torch.Tensor) -> torch.Tensor:
    """An egg carton with hollows and passes of different heights."""
    return 2.2 - torch.cos(x[0]) - torch.cos(x[1]) + 0.045 * x[0] + 0.02 * x[1] * (1 - 0.2 * x[0])


def stationary_point(start) -> tuple[float, float]:
    """Where the tilted carton's gradient vanishes near a start, by Newton's method."""
    x = torch.tensor(start, dtype=torch.float64)
    for _ in range(30):
        slope = torch.autograd.functional.jacobian(tilted_carton, x)
        x = x - torch.linalg.solve(torch.autograd.functional.hessian(tilted_carton, x), slope)
    assert float(torch.autograd.functional.jacobian(tilted_carton, x).norm()) < 1e-12
    return float(x[0]), float(x[1])


@pytest.mark.parametrize(
    ("connector", "columns"),
    [
        (CurveConnector("chain", bends=9, steps=500, rate=0.1, decay=0.0), 3),
        (BandConnector(steps=120, rate=0.1, decay=0.0), 2),
    ],
    ids=["chain", "band"],
)
def test_the_passes_of_a_tilted_egg_carton_are_found(connector: AbstractConnector, columns: int) -> None:
    """Hollows in two rows: every pass known by Newton's method, the minimax ones by brute force."""
    grid = list(itertools.product(range(columns), range(2)))
    count = len(grid)
    hollows = [stationary_point((2 * math.pi * i, 2 * math.pi * j)) for i, j in grid]
    passes = []
    for a, b in itertools.combinations(range(count), 2):
        if abs(grid[a][0] - grid[b][0]) + abs(grid[a][1] - grid[b][1]) == 1:
            middle = tuple((p + q) / 2 for p, q in zip(hollows[a], hollows[b], strict=True))
            top = float(tilted_carton(torch.tensor(stationary_point(middle))))
            passes.append(Edge(a, b, (), top, None, Outcome.COMPLETED, 0, 0.0, 0.0))
    truth = brute_force(count, passes)
    tree = minima_tree(
        [weights_at(p) for p in hollows],
        AnalyticLandscape(tilted_carton),
        connector=connector,
    )
    torch.testing.assert_close(off_diagonal(tree.heights), off_diagonal(truth), rtol=0.01, atol=0.0)
    assert len({round(e.height, 6) for e in tree.tree_edges}) == count - 1


# -- networks ----------------------------------------------------------------------------------------


def test_a_killed_tree_resumes_to_the_identical_one(task: Task, tmp_path: Path) -> None:
    points = [train(task, seed) for seed in (1, 2, 3)]
    method, land = CurveConnector("chain", steps=20), Landscape(task)
    whole = minima_tree(points, land, connector=method, names=["a", "b", "c"])
    path = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        minima_tree(points, land, connector=method, names=["a", "b", "c"], store=Killer(path, 33, every=4))
    assert len(list(tmp_path.rglob("edge-*.safetensors"))) == 2
    again = minima_tree(points, land, connector=method, names=["a", "b", "c"], store=FileStore(path))
    assert records_equal(again, whole)
    for one, two in zip(again.path(0, 2), whole.path(0, 2), strict=True):
        assert all(x.equal(y) for x, y in zip(one.path.controls, two.path.controls, strict=True))


def test_the_elastic_band_is_the_default(task: Task) -> None:
    points = [train(task, seed) for seed in (1, 2)]
    (there,) = minima_tree(points, Landscape(task), seed=5).path(0, 1)
    other = BandConnector(seed=5).connect(points, Landscape(task))
    assert all(x.equal(y) for x, y in zip(there.path.controls, other.path.controls, strict=True))


def test_batch_norm_is_measured_anew_at_minima_and_saddles_alike(image_task: Task) -> None:
    points = [train(image_task, seed) for seed in (1, 2)]
    tree = minima_tree(points, Landscape(image_task), connector=CurveConnector(steps=2))
    found = Landscape(image_task).evaluate(points, "train").mean_loss
    assert torch.equal(tree.losses, found)
    assert float(tree.heights[0, 1]) >= float(found.max())


def test_refusals(task: Task) -> None:
    points, land = [train(task, seed) for seed in (1, 2)], Landscape(task)
    wide = Weights.from_module(nn.Sequential(nn.Linear(8, 3)))
    cheap = CurveConnector(steps=1)
    with pytest.raises(SettingError, match="at least 2 minima, got 1"):
        minima_tree(points[:1], land, connector=cheap)
    with pytest.raises(SettingError, match="minima 0 and 2 are the same weights"):
        minima_tree([*points, points[0]], land, connector=cheap)
    with pytest.raises(LayoutError, match=r"minima 0 and 2 cannot be connected: .*one architecture"):
        minima_tree([*points, wide], land, connector=cheap)
    with pytest.raises(SettingError, match="expected 2 different names"):
        minima_tree(points, land, connector=cheap, names=["a", "a"])
    with pytest.raises(SettingError, match=r"3 minima needs at least 2 edges.* got a budget of 1"):
        minima_tree([*points, train(task, 3)], land, connector=cheap, most=1)
    with pytest.raises(SettingError, match="loss of the minimum bad is nan"):
        minima_tree([points[0], points[1] * math.nan], land, connector=cheap, names=["good", "bad"])


# -- the study ---------------------------------------------------------------------------------------

QUICK = MinimaSettings("chain", steps=30, edges=5)


@pytest.fixture
def trained(task: Task, tmp_path: Path) -> list:
    for seed in (1, 2, 3, 4):
        save_weights(train(task, seed), tmp_path / f"net-{seed}.safetensors")
    files = sorted(tmp_path.glob("*.safetensors"))
    return [read_checkpoint(path, like=task.network) for path in files]


NAMES = ["net-1", "net-2", "net-3", "net-4"]


def test_a_study_measures_what_it_says(task: Task, trained, tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", "minima", {})
    study = study_minima(task, trained, NAMES, QUICK, run=run)
    points = [checkpoint.weights for checkpoint in trained]
    land = Landscape(task)
    plain = minima_tree(points, land, connector=QUICK.connector, names=NAMES, most=5)
    assert records_equal(study.tree, plain), "the study's tree is minima_tree's"
    for split in ("train", "test"):
        each = land.evaluate(points, split).mean_loss
        assert [m.score(split).loss for m in study.minima] == pytest.approx(each.tolist())
    for tested in study.tested:
        assert tested.edge.saddle is not None
        assert tested.score("train").loss == pytest.approx(tested.edge.saddle.loss)
        (path,) = load_paths(study, run.folder, *tested.edge.pair) if tested in study.tree_tested else (None,)
        if path is not None:
            top = land.evaluate([path(tested.edge.saddle.t)], "test").mean_loss
            assert tested.score("test").loss == pytest.approx(float(top), rel=1e-5)
            assert path(0).equal(points[tested.edge.first])
    for edge in study.held_out.edges:
        assert edge.height >= max(study.held_out.losses[list(edge.pair)]) * (1 - 1e-6)
    ratio = study.ratio("train")
    tops = [tested.edge.saddle.loss for tested in study.tree_tested]
    assert ratio.overall == pytest.approx(sum(tops) / 3 / float(study.tree.losses.mean()))
    assert ratio.low < ratio.each < ratio.high
    assert ratio.edges == 3
    write_record(study, tmp_path / "study.json")
    again = read_record(tmp_path / "study.json", MinimaStudy)
    assert records_equal(again, study)
    with pytest.raises(SettingError, match="holds no paths"):
        again.tree.path(0, 1)
    run.close()


def test_finished_edges_are_never_computed_again(task: Task, trained, tmp_path: Path, monkeypatch) -> None:
    calls: list[int] = []
    real = CurveConnector.connect

    def counting(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 4:
            raise Killed
        return real(self, *arguments, **options)

    monkeypatch.setattr(CurveConnector, "connect", counting)
    run = Run.open(tmp_path / "run", "minima", {})
    with pytest.raises(Killed):
        study_minima(task, trained, NAMES, QUICK, run=run)
    made = {path: path.stat().st_mtime_ns for path in tmp_path.glob("run/records/edge-*.json")}
    assert len(made) == 3
    study = study_minima(task, trained, NAMES, QUICK, run=run)
    assert len(calls) == 4 + 2
    assert all(path.stat().st_mtime_ns == when for path, when in made.items())
    assert records_equal(study, study_minima(task, trained, NAMES, QUICK))
    run.close()


def test_a_diverged_fit_is_told_and_leaves_no_path(task: Task, trained, tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", "minima", {})
    study = study_minima(task, trained[:2], NAMES[:2], replace(QUICK, rate=1e9, edges=None), run=run)
    assert [tested.edge.outcome for tested in study.tested] == [Outcome.DIVERGED]
    assert study.tested[0].scores == ()
    assert not (tmp_path / "run" / "paths").exists()
    assert math.isnan(study.ratio("train").overall)
    assert ratio_sentence(study) == "No path joins any two of the 2 minima: every fit diverged."
    page = minima_page(study)
    assert "Kept out of the tree, because the fit diverged: 1 – 2." in page.aside
    assert page.figures()
    run.close()


def test_settings_are_refused_in_sentences() -> None:
    for options, said in (
        ({"kind": "spline"}, "expected a kind of path"),
        ({"steps": 5, "epochs": 1.0}, "epochs or steps of a fit, not both"),
        ({"rate": -1.0}, "rate must be a number above 0"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"batchnorm": "guess"}, "guess"),
    ):
        with pytest.raises(SettingError, match=said):
            MinimaSettings(**({"kind": "chain"} | options))


# -- the disconnectivity graph -----------------------------------------------------------------------


def some_tree(seed: int = 2, count: int = 8) -> MinimaTree:
    return grown(random_heights(count, seed))[0]


def every(branch):
    return [branch, *(one for part in branch.below for one in every(part))]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("levels", [(), (2.2, 2.5, 3.0)])
def test_branches_merge_at_the_saddles_and_never_cross(seed: int, levels: tuple[float, ...]) -> None:
    tree = some_tree(seed)
    (root,) = branches(tree, levels)
    order = list(root.leaves)
    assert sorted(order) == list(range(8))
    for branch in every(root):
        places = sorted(order.index(leaf) for leaf in branch.leaves)
        assert places == list(range(places[0], places[0] + len(places))), "a branch's leaves stand together"
        assert branch.trunk in branch.leaves
        assert (
            branch.leaves == tuple(leaf for part in branch.below for leaf in part.leaves) or not branch.below
        )
        for one, two in itertools.combinations(branch.below, 2):
            height = float(tree.heights[one.trunk, two.trunk])
            rounded = next((level for level in levels if level >= height), height)
            assert branch.height == rounded
        assert all(part.height < branch.height for part in branch.below)
        if not branch.below:
            assert branch.height == float(tree.losses[branch.trunk])


def test_saddles_of_one_height_merge_in_one_branch() -> None:
    tree, _ = grown(table({(0, 1): 3, (0, 2): 3, (0, 3): 3, (1, 2): 5, (1, 3): 5, (2, 3): 5}, 4))
    (root,) = branches(tree)
    assert len(root.below) == 4


def test_the_figure_shows_the_losses_and_saddles() -> None:
    tree = some_tree()
    figure = disconnectivity_figure(tree, controls=False)
    lines, leaves, saddles = figure.data
    assert sorted(leaves.y) == pytest.approx(sorted(tree.losses.tolist()))
    assert sorted(saddles.y) == pytest.approx(sorted(e.height for e in tree.tree_edges))
    drawn = [value for value in lines.y if value is not None]
    assert set(saddles.y) <= set(drawn)
    assert {note.text for note in figure.layout.annotations} == set(tree.names)
    assert figure.layout.yaxis.type == "log"
    assert disconnectivity_figure(tree, log=False, levels=10).layout.yaxis.type == "linear"
    two = disconnectivity_figure([tree, replace(tree, split="test")])
    assert two.layout.yaxis2.title.text == "held-out loss"
    with pytest.raises(SettingError, match=r"0 levels .none. or at least 2, got 1"):
        disconnectivity_figure(tree, levels=1)


def test_losses_below_zero_and_equal_ones_are_drawn() -> None:
    tree = some_tree()
    lower = tree_of(tree.names, "train", tree.losses - 5, tree.distances, tree.edges, tree.ending)
    assert disconnectivity_figure(lower).layout.yaxis.type == "linear"
    with pytest.raises(SettingError, match="logarithmic axis needs losses above 0"):
        disconnectivity_figure(lower, log=True)
    flat = [replace(edge, height=1.0) for edge in tree.edges]
    ones = torch.ones(8, dtype=torch.float64)
    same = tree_of(tree.names, "train", ones, tree.distances, flat, tree.ending)
    low, high = disconnectivity_figure(same).layout.yaxis.range
    assert low < 1 < high


def test_parts_that_nothing_joins_stand_side_by_side() -> None:
    tree, _ = grown(table({(0, 1): 3, (2, 3): 4}, 4))
    roots = branches(tree)
    assert [root.leaves for root in roots] == [(0, 1), (2, 3)]
    assert len(disconnectivity_figure(tree).data[1].x) == 4
    assert heights_figure(tree).data


def test_the_map_has_the_tree_below_and_the_tested_paths_above() -> None:
    tree, _ = grown(table({(0, 1): 3, (0, 2): 9, (0, 3): 5, (1, 2): 4, (2, 3): 2, (1, 3): 8}, 4), 5)
    (root,) = branches(tree)
    cells = heights_figure(tree).data[0].z
    direct = {edge.pair: edge.height for edge in tree.edges}
    for r, i in enumerate(root.leaves):
        for c, j in enumerate(root.leaves):
            if r > c:
                assert cells[r][c] == float(tree.heights[i, j])
            if r < c:
                assert cells[r][c] == direct.get((min(i, j), max(i, j)))


def test_the_page_tells_every_tested_pair(task: Task, trained) -> None:
    study = study_minima(task, trained, NAMES, QUICK)
    page = minima_page(study)
    assert "5 of 6 pairs were tested, by polygonal chains: the budget of edges was used." in page.sentence
    assert [section.name for section in page.sections] == [
        "tree", "heights", "minima", "reading", "provenance",
    ]  # fmt: skip
    assert len(page.tables[0].rows) == 2 * 3
    assert [named.name for named in page.figures()] == [
        "disconnectivity", "disconnectivity-train", "disconnectivity-held-out", "saddle-heights",
    ]  # fmt: skip
    tested = page.sections[1].blocks[1].table.rows
    assert [row[1].text for row in tested[:3]] == ["star"] * 3
    assert tested[3][1].text.startswith("to replace ")
    assert all("<script" not in row[0].text for row in tested)
    heights = [(each.edge.saddle.loss, each.held_out.loss) for each in study.tested]
    assert any(plain_loss(train) != plain_loss(held_out) for train, held_out in heights)
    assert [(row[3].text, row[5].text) for row in tested] == [
        (plain_loss(train), plain_loss(held_out)) for train, held_out in heights
    ]


def test_names_lose_what_all_share() -> None:
    assert short_names(["a-1", "a-2"]) == ("1", "2")
    assert short_names(["run-1.best", "run-12.best"]) == ("1", "12")
    assert short_names(["1", "12"]) == ("1", "12")
    assert short_names(["seed1", "seed2"]) == ("seed1", "seed2")
    assert short_names(["a-b", "a-"]) == ("a-b", "a-")
