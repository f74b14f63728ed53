"""Curves before and after alignment: planted pairs, watched fits, statistics over pairs, the page."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import isthmus.experiments.alignedcurves as procedure
from conftest import Killed, Killer, blobs, mlp
from isthmus import Bezier, Landscape, Recipe, Task, Weights, discover, fit_curve, train
from isthmus.barriers import barrier, profile
from isthmus.errors import SettingError
from isthmus.experiments.alignedcurves import (
    AlignedCurveSettings,
    chosen_pairs,
    compare_curves,
    curves_identity,
    names_of,
)
from isthmus.experiments.alignedrecords import (
    LENGTH,
    MAXIMUM,
    MINIMUM,
    RATIO,
    STEPS,
    STEPS_TO_END,
    CurveComparison,
    extreme_of,
    measure_path,
)
from isthmus.experiments.pairing import contrast, mean_over, student_quantile
from isthmus.experiments.watching import Watch, Watcher, look_steps
from isthmus.io.checkpoints import Checkpoint
from isthmus.io.records import records_equal
from isthmus.io.runs import Run
from isthmus.io.state import FileStore, NoStore
from isthmus.path import Segment
from isthmus.report.alignedcurves import curve_figures, curves_page, headline, sentence
from isthmus.report.alignedtables import contrast_rows, pair_rows, step_rows

FAST = AlignedCurveSettings(
    curve_steps=60, points=7, examples=100, looks=8, watch_points=7, watch_examples=80, level=1.5
)


def given(weights: Weights, name: str = "net.pt") -> Checkpoint:
    return Checkpoint(weights, Path(name), "test", weights.digest())


def shifted(weights: Weights, size: float, seed: int) -> Weights:
    """These weights with Gaussian noise of this length."""
    noise = torch.randn(len(weights.vector), generator=torch.Generator().manual_seed(seed))
    return Weights(weights.layout, weights.vector + size * noise / noise.norm(), weights.buffers)


@pytest.fixture(scope="module")
def task() -> Task:
    """An MLP on blobs; one for the whole file, as nothing here changes it."""
    recipe = Recipe(epochs=6, batch=32, rate=0.1, weight_decay=1e-4)
    return Task(model=mlp, train=blobs(256, 1), test=blobs(200, 2), recipe=recipe, name="blobs")


@pytest.fixture(scope="module")
def planted(task) -> list[Checkpoint]:
    """A trained network, and two permuted copies of it that noise has moved."""
    first = train(task, 1)
    symmetry = discover(task.traceable, task.example)
    copies = [
        symmetry.random(torch.Generator().manual_seed(seed)).apply(shifted(first, 0.5, seed))
        for seed in (1, 2)
    ]
    return [given(first, "a.pt"), *(given(w, f"{n}.pt") for w, n in zip(copies, "bc", strict=True))]


@pytest.fixture(scope="module")
def study(task, planted) -> CurveComparison:
    return compare_curves(planted, task, FAST)


# ---- the comparison


def test_alignment_undoes_a_planted_permutation(study, planted) -> None:
    """Aligned ends are as far apart as the noise; curves are shorter, lower, and sooner at the level."""
    for pair in study.pairs[:2]:
        assert pair.aligned.line.endpoint_distance == pytest.approx(0.5, rel=1e-5)
        assert pair.unaligned.line.endpoint_distance > 4
    for name, split in ((LENGTH, ""), (MAXIMUM, "train"), (MAXIMUM, "test"), (STEPS, "train")):
        each = study.contrast(name, split)
        assert (each.improved, each.worsened) == (3, 0), name
    assert study.contrast(STEPS, "train").after == (0.0, 0.0, 0.0), "the aligned line is below the level"
    assert study.contrast(MINIMUM, "train").worsened == 0
    assert study.shared
    assert not study.failures
    assert [pair.name for pair in study.pairs] == ["a – b", "a – c", "b – c"]


def test_every_figure_agrees_with_the_paths_themselves(study, task, planted) -> None:
    """The record's curve is the one that `fit_curve` gives, measured as `profile` and `barrier` do."""
    land = Landscape(task, limit=100)
    a, b = planted[0].weights, planted[1].weights
    found = fit_curve(Bezier.between(a, b), land, steps=60)
    record = study.pairs[0].unaligned
    assert record.curve is not None
    assert record.curve.length == found.length
    assert record.curve.endpoint_distance == pytest.approx(a.distance(b))
    assert torch.equal(record.fit.history, found.history)
    for split in ("train", "test"):
        seen, along = profile(found.path, land, 7, split), record.curve.on(split)
        assert torch.equal(along.loss, seen.loss)
        assert torch.equal(along.error, seen.error)
        assert along.maximum_loss.value == float(seen.loss.max())
        assert along.minimum_accuracy.value == pytest.approx(1 - float(seen.error.max()))
        assert along.mean_loss == seen.arc_mean("loss")
        line = barrier(profile(Segment(a, b), land, 7, split), of="loss")
        assert record.line.on(split).barrier("loss") == line
        for extreme in (along.maximum_loss, along.minimum_accuracy):
            assert extreme.low <= extreme.value <= extreme.high
    ratio = study.contrast(RATIO).before[0]
    assert ratio == pytest.approx(found.length / found.endpoint_distance)


def test_a_network_with_batch_norm_and_dropout(image_task) -> None:
    """The looks recalibrate another network than the fit's, and draw nothing from its random numbers."""
    ends = [given(train(image_task, seed), f"{seed}.pt") for seed in (1, 2)]
    settings = replace(FAST, curve_steps=12, examples=None, points=3, recalibration=70)
    found = compare_curves(ends, image_task, settings)
    land = Landscape(image_task, recalibration=70)
    plain = fit_curve(Bezier.between(*(end.weights for end in ends)), land, steps=12)
    side = found.pairs[0].unaligned
    assert side.curve is not None
    assert side.curve.length == plain.length
    assert side.curve.on("test").batchnorm == "recalibrate"
    assert found.pairs[0].aligned.line.endpoint_distance < side.line.endpoint_distance
    assert math.isnan(found.contrast(LENGTH).difference.low), "one pair has no interval"


def test_disjoint_pairs_share_no_network(task, planted) -> None:
    more = given(train(task, 4), "d.pt")
    found = compare_curves([*planted, more], task, replace(FAST, pairs="disjoint", method="weight"))
    assert [pair.name for pair in found.pairs] == ["a – b", "c – d"]
    assert not found.shared
    assert "independent" in curves_page(found).aside
    assert {pair.matching.method for pair in found.pairs} == {"weight"}


def test_the_order_in_which_pieces_run_changes_nothing(study, task, planted) -> None:
    class Backwards:
        workers = 2

        def map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
            return [function(item) for item in reversed(list(items))][::-1]

    other = compare_curves(planted, task, FAST, fanout=Backwards())
    assert records_equal(other, study)


def test_a_fit_that_diverges_is_told_and_left_out(task, planted) -> None:
    found = compare_curves(planted[:2], task, replace(FAST, curve_rate=1e30))
    assert found.contrasts == ()
    assert len(found.failures) == 2
    assert "The fit of the aligned curve of a and b stopped after" in found.failures[1]
    page = curves_page(found)
    assert page.headline == "No pair had both of its curves fitted"
    assert found.failures[0] in page.aside
    assert [figure.name for figure in page.figures()] == ["curves-fits"]


# ---- resuming


def test_a_killed_study_resumes_to_the_same_record(study, task, planted, tmp_path, monkeypatch) -> None:
    """Killed between pieces and within a fit: the same record, and nothing finished is computed again."""
    identity = curves_identity(task, planted, FAST)

    def attempt(measured: list[int], most: int, store: Callable[[Path], Any]) -> CurveComparison:
        def counted(*arguments: Any) -> Any:
            measured.append(1)
            if len(measured) > most:
                raise Killed
            return measure_path(*arguments)

        monkeypatch.setattr(procedure, "measure_path", counted)
        monkeypatch.setattr(Run, "store", lambda run, name: store(run.path(f"state/{name}")))
        run = Run.open(tmp_path / "run", "curves", identity)
        try:
            return compare_curves(planted, task, FAST, run=run)
        finally:
            run.close()

    first: list[int] = []
    with pytest.raises(Killed):
        attempt(first, 3, FileStore)
    with pytest.raises(Killed):  # every 7 steps the state is kept; the kill comes within a fit
        attempt([], 99, lambda path: Killer(path, after=40, every=7))
    last: list[int] = []
    assert records_equal(attempt(last, 99, FileStore), study)
    assert len(last) < 12 - 3
    assert not (tmp_path / "run" / "state").exists() or not any(
        (tmp_path / "run/state").rglob("*.safetensors")
    )
    again: list[int] = []
    assert records_equal(attempt(again, 0, FileStore), study)


def test_all_that_determines_the_result_is_in_the_identity(task, planted) -> None:
    base = curves_identity(task, planted, FAST)
    assert set(asdict(FAST)) <= set(base)
    assert curves_identity(task, planted[::-1], FAST) != base
    assert curves_identity(task, planted[:2], FAST) != base
    assert curves_identity(replace(task, recipe=replace(task.recipe, rate=0.2)), planted, FAST) != base
    for change in ({"seed": 1}, {"level": 2.0}, {"method": "weight"}, {"watch_points": 9}):
        assert curves_identity(task, planted, replace(FAST, **change)) != base


# ---- watching a fit


class Caught(NoStore):
    """Keeps the inner controls after each step, and nothing else."""

    def __init__(self) -> None:
        self.inner: dict[int, torch.Tensor] = {}

    def due(self) -> bool:
        return True

    def save(self, identity: str, tensors: Any, fields: Any) -> None:
        self.inner[fields["step"]] = tensors["inner"].clone()


@pytest.fixture(scope="module")
def watched(task) -> tuple[Bezier, Landscape, Landscape]:
    start = Bezier.between(train(task, 1), train(task, 2), 2)
    return start, Landscape(task), Landscape(replace(task), limit=80)


def test_a_watched_fit_is_the_fit(watched) -> None:
    start, land, beside = watched
    steps = look_steps(50, 6)
    watcher, caught = Watcher(start, beside, steps, points=5), Caught()
    seen = fit_curve(start, land, steps=50, store=watcher)
    plain = fit_curve(start, land, steps=50, store=caught)
    assert all(x.equal(y) for x, y in zip(seen.path.controls, plain.path.controls, strict=True))
    assert torch.equal(seen.history, plain.history)
    assert watcher.watch.steps.tolist() == [0, *steps]
    first, last = start.ends
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    for step, height in zip(watcher.watch.steps.tolist(), watcher.watch.highest.tolist(), strict=True):
        inner = [Weights(first.layout, row) for row in caught.inner[step]] if step else start.controls[1:-1]
        loss = beside.evaluate(Bezier((first, *inner, last)).at(t), "train").mean_loss
        assert height == float(loss.max()), f"step {step}"
        assert watcher.watch.ends == float(max(loss[0], loss[-1]))


@pytest.mark.parametrize("after", [2, 17, 49])
def test_a_killed_fit_resumes_with_all_its_looks(watched, tmp_path, after) -> None:
    start, land, beside = watched
    steps = look_steps(50, 9)

    def fit(store: Any) -> tuple[Any, Watch]:
        watcher = Watcher(start, beside, steps, 5, store)
        return fit_curve(start, land, steps=50, store=watcher), watcher.watch

    whole, seen = fit(None)
    with pytest.raises(Killed):
        fit(Killer(tmp_path / "state", after=after, every=3))
    resumed, again = fit(FileStore(tmp_path / "state"))
    assert records_equal(again, seen)
    assert all(x.equal(y) for x, y in zip(resumed.path.controls, whole.path.controls, strict=True))


def test_steps_to_a_level() -> None:
    seen = Watch(torch.tensor([0, 2, 8]), torch.tensor([1.0, 0.2, 0.4]), 0.1, 5, 10)
    assert [seen.steps_to(level) for level in (2.0, 1.0, 0.5, 0.2, 0.1)] == [0, 0, 2, 2, math.inf]
    assert seen.lowest == pytest.approx(0.2)


@pytest.mark.parametrize(("total", "looks"), [(1, 2), (7, 40), (1000, 40), (12345, 2)])
def test_looks_go_from_the_first_step_to_the_last(total, looks) -> None:
    steps = look_steps(total, looks)
    assert steps[0] == 1
    assert steps[-1] == total
    assert list(steps) == sorted(set(steps))
    assert len(steps) <= looks


# ---- statistics


def test_students_quantile_against_published_tables() -> None:
    """Abramowitz & Stegun 1964, table 26.10."""
    table = {(0.975, 1): 12.706, (0.975, 2): 4.303, (0.975, 3): 3.182, (0.975, 10): 2.228, (0.95, 4): 2.132,
             (0.995, 2): 9.925, (0.995, 30): 2.750, (0.975, 120): 1.980}  # fmt: skip
    for (share, freedom), value in table.items():
        assert student_quantile(share, freedom) == pytest.approx(value, abs=6e-4)
    with pytest.raises(SettingError, match="freedom of 1 or more"):
        student_quantile(0.9, 0)


def test_students_interval_holds_the_mean_as_often_as_it_says() -> None:
    draws = torch.randn(4000, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = [mean_over(row) for row in draws.tolist()]
    assert sum(each.low <= 0 <= each.high for each in found) / len(found) == pytest.approx(0.95, abs=0.012)


def test_contrasts_of_what_did_not_happen() -> None:
    some = contrast("steps", [math.inf, 9.0, math.inf], [3.0, 4.0, math.inf], "lower")
    assert (some.improved, some.worsened) == (2, 0)
    assert math.isnan(some.difference.value)
    assert some.decided == 0
    cut = contrast("accuracy", [0.9, 1.0], [1.0, 1.0], "higher", most=1.0)
    assert cut.before_mean.high == 1.0
    assert cut.difference.high > 0.1, "a difference has no such bound"
    assert contrast("length", [5.0, 6.0, 5.5], [1.0, 2.1, 1.4], "lower").decided == 1
    assert contrast("length", [1.0, 2.1, 1.4], [5.0, 6.0, 5.5], "lower").decided == -1
    assert contrast("accuracy", [0.5, 0.6, 0.55], [0.8, 0.9, 0.86], "higher").decided == 1


def test_the_extremes_interval_against_a_naive_bootstrap() -> None:
    generator = torch.Generator().manual_seed(3)
    each = torch.rand(5, 60, generator=generator) + torch.tensor([0, 0.2, 0.5, 0.4, 0.1])[:, None]
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    found = extreme_of(each, t)
    draws = [float(each[:, torch.randint(60, (60,), generator=generator)].mean(1).max()) for _ in range(4000)]
    low, high = torch.tensor(draws).quantile(torch.tensor([0.025, 0.975])).tolist()
    height = float(each.double().mean(1).max())
    assert found.value == pytest.approx(height)
    assert found.at == 0.5
    assert found.low == pytest.approx(min(low, 2 * height - high), abs=0.015)
    assert found.high == pytest.approx(max(high, 2 * height - low), abs=0.015)
    infinite = extreme_of(torch.tensor([[1.0, 2.0], [math.nan, 0.0], [0.0, 0.0]]), t[:3])
    assert infinite.value == infinite.high == math.inf


# ---- refusals


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"level": 1.0}, "must be above 1"),
        ({"method": "guess"}, "expected for method one of weight, activation"),
        ({"curve": "none"}, "expected for curve one of bezier, chain"),
        ({"pairs": "some"}, "expected for pairs one of all, disjoint"),
        ({"curve_steps": 0}, "curve steps must be at least 1"),
        ({"watch_points": 2}, "watch points must be at least 3"),
        ({"curve_rate": math.inf}, "curve rate must be a number above 0"),
    ],
)
def test_settings_out_of_range_are_refused(change, told) -> None:
    with pytest.raises(SettingError, match=told):
        AlignedCurveSettings(**change)


def test_networks_that_make_no_pair_are_refused(task, planted) -> None:
    with pytest.raises(SettingError, match="two networks or more"):
        compare_curves(planted[:1], task, FAST)
    with pytest.raises(SettingError, match="1-a and 2-a are the same network"):
        compare_curves([planted[0], planted[0]], task, FAST)
    with pytest.raises(SettingError, match="even number of networks, got 3"):
        compare_curves(planted, task, replace(FAST, pairs="disjoint"))
    assert chosen_pairs("abc", "123", "all") == ((0, 1), (0, 2), (1, 2))
    assert names_of(planted) == ("a", "b", "c")


# ---- the page


def test_the_tables_hold_the_records_figures(study) -> None:
    page = curves_page(study)
    assert page.headline.startswith("Over 3 pairs, aligned curves are shorter")
    assert "made of 3 networks" in page.aside
    assert "not independent" in contrast_rows(study).caption
    rows = {(row[0].text, row[1].text): row for row in contrast_rows(study).rows}
    length = study.contrast(LENGTH)
    assert rows[LENGTH, "—"][4].text == f"−{-length.difference.value:.3f}"
    assert rows[LENGTH, "—"][5].text == "3 of 3"
    assert rows["steps to the level (1.5 × the higher end)", "train"][3].text == "0"
    assert len(pair_rows(study).rows) == 6
    assert [row[0].text for row in step_rows(study).rows][:2] == [
        "1.5 × the higher end's",
        "2 × the higher end's",
    ]
    assert "length" in sentence(study)
    assert [figure.name for figure in curve_figures(study)] == [
        "curves-paired", "curves-profiles", "curves-fits",
    ]  # fmt: skip
    assert all(section.name.startswith("one-") for section in curves_page(study, "one-").sections)


def test_levels_that_were_not_reached_are_told_so(study) -> None:
    pairs = []
    for pair in study.pairs:
        high = replace(pair.unaligned.watch, highest=pair.unaligned.watch.highest + 9)
        pairs.append(replace(pair, unaligned=replace(pair.unaligned, watch=high)))
    unreached = contrast(STEPS, [math.inf] * 3, [0.0] * 3, "lower", "train")
    kept = tuple(unreached if each.name == STEPS else each for each in study.contrasts)
    found = replace(study, pairs=tuple(pairs), contrasts=kept)
    rows = {row[0].text: row for row in contrast_rows(found).rows}
    assert rows["steps to the level (1.5 × the higher end)"][2].text == "reached in 0 of 3"
    assert rows["steps to the level (1.5 × the higher end)"][4].text == "—"
    assert "reached in 0 → 3 of 3" in sentence(found)
    assert "not reached" in {cell.text for row in pair_rows(found).rows for cell in row}
    texts = [note.text for note in curve_figures(found)[0].figure.layout.annotations]
    assert "not reached" in texts
    assert study.contrast(STEPS_TO_END, "train").improved == 3


def test_what_alignment_made_worse_is_said(study) -> None:
    longer = contrast(LENGTH, [2.0, 2.1, 2.2], [4.0, 4.2, 4.1], "lower")
    flat = tuple(replace(each, difference=mean_over([-1.0, 1.0])) for each in study.contrasts)
    found = replace(study, contrasts=tuple(longer if each.name == LENGTH else each for each in flat))
    assert headline(found) == "Over 3 pairs, aligned curves are longer"
    assert [card.state for card in curves_page(found).cards] == ["barrier", *["undecided"] * 3]


def test_undecided_is_said(study) -> None:
    flat = tuple(replace(each, difference=mean_over([-1.0, 1.0])) for each in study.contrasts)
    assert headline(replace(study, contrasts=flat)).startswith("Aligned and unaligned curves: undecided")
    cards = curves_page(replace(study, contrasts=flat)).cards
    assert {card.state for card in cards} == {"undecided"}
