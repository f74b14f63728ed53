"""The report: figures, sentences, tables and the page, from records that are made here."""

import math
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from rich.console import Console

import isthmus.report.export as export
from isthmus.barriers import Barrier, Profile, Verdict, barrier
from isthmus.connect import Connection, Outcome
from isthmus.errors import MissingDependencyError, SettingError
from isthmus.experiments.records import AxisRow, End, Fit, Matching, Merge, PairStudy, PathStudy
from isthmus.landscape import Evaluation
from isthmus.path import Segment
from isthmus.report import plot, save_figures, terminal, write_report
from isthmus.report.html import render_report
from isthmus.report.sentences import headline, train_sentence, verdict_sentence
from isthmus.report.tables import provenance_rows
from isthmus.scores import score
from isthmus.surfaces import Surface
from isthmus.weights import Weights

PATHS = {"naive line": 0.60, "aligned line": 0.004, "curve": 0.02, "aligned curve": 0.0}
HOSTILE = "<script>alert('x')</script> & \"b\".pt"


def make_profile(kind, split, wall, examples, stretch=1.0):
    """A bump of this error: example i is wrong at t where its threshold lies below the error rate there."""
    t = torch.linspace(0, 1, 25, dtype=torch.float64)
    rate = 0.02 + wall * torch.sin(math.pi * t) ** 2
    thresholds = (torch.arange(examples, dtype=torch.float64) + 0.5) / examples
    error = (thresholds[None] < rate[:, None]).float()
    loss = (0.05 + 2 * error * (0.5 + thresholds)).float()
    distance = 10 * stretch * t
    return Profile(kind, t, distance, 10.0, Evaluation(loss, error, split, "recalibrate"))


def make_path(name, wall):
    kind = "segment" if name.endswith("line") else "bezier"
    stretch = 1.0 if kind == "segment" else 1.1
    profiles = tuple(
        make_profile(kind, split, wall, n, stretch) for split, n in (("train", 400), ("test", 300))
    )
    barriers = tuple(
        barrier(profile, above, of=of, resamples=200)
        for profile in profiles
        for of in ("loss", "error")
        for above in ("mean", "chord")
    )
    fit = None
    if kind == "bezier":
        fit = Fit(torch.tensor([1.0, 0.4, 0.2]), Outcome.COMPLETED.value, 30, {"kind": kind, "rate": 0.03})
    return PathStudy(name, kind, "aligned" in name, profiles, barriers, 10.0 * stretch, 10.0, fit)


def make_surface():
    x, y = torch.linspace(-2, 12, 15, dtype=torch.float64), torch.linspace(-2, 6, 9, dtype=torch.float64)
    loss = 0.05 + 0.1 * ((y[:, None] - 4 * torch.sin(math.pi * x[None] / 10)) ** 2)
    corners = torch.tensor([[0.0, 0.0], [10.0, 0.0], [5.0, 4.0]], dtype=torch.float64)
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    curve = torch.stack([10 * t, 8 * t * (1 - t)], dim=1)
    names = ("A", "B", "bend")
    return Surface(
        x, y, loss, (loss / 10).clamp(0, 1), names, corners, curve, "curve", 0.0, "test", 300, "recalibrate"
    )


def make_study(walls=None, source="a.safetensors"):
    """A pair's study as the experiments write it."""
    paths = tuple(make_path(name, wall) for name, wall in (PATHS if walls is None else walls).items())
    ends = make_profile("segment", "test", 0.0, 300).evaluation
    scored = (score(replace(ends, split="train")), score(ends))
    axes = (
        AxisRow("0.weight[0]", 64, 64, ("0.weight[0]", "0.bias[0]", "2.weight[1]"), 0.95),
        AxisRow("2.weight[0]", 32, 30, ("2.weight[0]", "2.bias[0]", "4.weight[1]"), 0.5),
    )
    matching = Matching(
        "weight", "the matching converged: no axis could be improved any more", 120.0, 10.0, 6.5, 10.0, 592.0,
        0.97, "outputs change by 1e-12 relative", axes, (("0.weight[1]", "the input of the network"),),
    )  # fmt: skip
    pair = (
        End("A", source, "0" * 64, (), scored),
        End("B", "b.pt", "1" * 64, ("unwrapped 'model'",), scored),
    )
    return PairStudy(
        "digits-mlp", "Digits <8x8>.", pair, paths, matching,
        (Merge("aligned midpoint", "midpoint.safetensors", scored),), (make_surface(),), 0.02,
        {"isthmus": "0.1.0", "command": "isthmus connect A B"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def study():
    return make_study()


def a_barrier(height=0.4, low=0.35, high=0.45, of="error", split="test"):
    return Barrier(height, low, high, 0.5, of, "mean", split, 300, 25, 0.95, "segment")


def with_error(study, name, height, low, high, split="test"):
    """The study with this path's error barrier set."""

    def changed(path):
        if path.name != name:
            return path
        wanted = ("error", split, "mean")
        swapped = tuple(
            replace(b, height=height, low=low, high=high) if (b.of, b.split, b.above) == wanted else b
            for b in path.barriers
        )
        return replace(path, barriers=swapped)

    return replace(study, paths=tuple(changed(path) for path in study.paths))


def test_provenance_names_every_file_with_what_was_noticed_while_reading():
    study = make_study()
    read = replace(study.ends[1], notes=("unwrapped 'model'", "a prefix"))
    rows = provenance_rows([study.ends[0], read], {"seed": "3"}).rows
    assert [(name.text, value.text) for name, value in rows] == [
        ("A: source", study.ends[0].source), ("A: SHA-256", study.ends[0].sha256),
        *([("A: while reading", "; ".join(study.ends[0].notes))] if study.ends[0].notes else []),
        ("B: source", read.source), ("B: SHA-256", read.sha256),
        ("B: while reading", "unwrapped 'model'; a prefix"), ("seed", "3"),
    ]  # fmt: skip


# -- sentences -----------------------------------------------------------------------------------


def test_the_verdict_names_each_path_once_with_figures(study):
    told = verdict_sentence(
        with_error(with_error(study, "curve", 0.02, 0.01, 0.03), "aligned curve", 0.0, 0.0, 0.0)
    )
    assert told.startswith(
        "On 300 held-out examples and at a tolerance of 2 % error, A and B are connected along"
    )
    assert "the aligned curve (0.00 %, [0.00, 0.00] %)" in told
    assert "; a barrier remains on the naive line (60.00 %" in told
    assert (
        "it is undecided along the curve (2.00 %, [1.00, 3.00] %), where the interval contains the tolerance."
        in told
    )
    assert told.count("95 % interval") == 1
    assert all(told.count(f"the {name} (") == 1 for name in PATHS)


@pytest.mark.parametrize(
    ("bounds", "start"),
    [
        ((0.5, 0.4, 0.6), "Not connected at 2 % error: a barrier remains on every path"),
        ((0.02, 0.01, 0.03), "Undecided at 2 % error along the naive line"),
        ((0.0, 0.0, 0.01), "Connected at 2 % error along the naive line"),
        ((math.nan, math.nan, math.nan), "Undecided at 2 % error along the naive line"),
    ],
)
def test_the_headline_claims_no_more_than_the_verdict(bounds, start):
    one = with_error(make_study({"naive line": 0.6}), "naive line", *bounds)
    assert headline(one).startswith(start)
    if start.startswith("Not"):
        assert "connected" not in verdict_sentence(one)
    if math.isnan(bounds[0]):
        assert "could not be measured" in verdict_sentence(one)


def test_a_study_without_paths_claims_nothing(study):
    empty = replace(study, paths=())
    assert "nothing is known" in verdict_sentence(empty)
    assert "No path was measured" in render_report(empty)


def test_train_verdicts_that_differ_are_named(study):
    assert "same verdict on every path" in train_sentence(study)
    other = with_error(make_study({"naive line": 0.6}), "naive line", 0.0, 0.0, 0.001, "train")
    assert "the naive line (connected on train, barrier on held-out data)" in train_sentence(other)


# -- figures -------------------------------------------------------------------------------------


def test_a_study_is_drawn_with_every_profile_and_its_values(study):
    figure = plot(study)
    for path in study.paths:
        held_out, train = path.profile("test"), path.profile("train")
        drawn = [t for t in figure.data if t.name == path.name and t.mode == "lines+markers"]
        assert [t.line.dash for t in drawn] == ["5px,3px", "solid"] * 2
        torch.testing.assert_close(torch.tensor(drawn[1].y).double(), 100 * held_out.error)
        torch.testing.assert_close(torch.tensor(drawn[2].y).double(), train.loss)
        low, high = (100 * float(bound[12]) for bound in held_out.band("error"))
        assert f"[{low:.2f}, {high:.2f}]".replace("-", "−") in drawn[1].hovertext[12]
    bands = [t for t in figure.data if t.fill == "toself"]
    assert len(bands) == 2 * 2 * len(study.paths)


def test_the_barrier_is_marked_at_its_maximum(study):
    figure = plot(study, of="error")
    mark = next(t for t in figure.data if t.name == "naive line, barrier")
    assert mark.x[1] == 0.5
    assert mark.text[1] == "<b>60.00 %</b>"
    assert "95 % interval" in mark.hovertext[1]


def test_four_paths_have_four_colours_and_four_symbols(study):
    drawn = [t for t in plot(study, of="loss").data if t.mode == "lines+markers" and t.showlegend]
    assert len({t.line.color for t in drawn}) == len({t.marker.symbol for t in drawn}) == 4


def test_arc_length_may_be_the_axis(study):
    figure = plot(study.path("curve"), of="loss", along="arc", splits=("test",))
    curve = next(t for t in figure.data if t.name == "curve" and t.mode == "lines+markers")
    assert curve.x[-1] == pytest.approx(11.0)


def test_profiles_of_one_name_are_one_path(study):
    path = study.path("curve")
    figure = plot(list(path.profiles), of="loss", names=["mine", "mine"])
    assert [t.name for t in figure.data if t.showlegend and t.mode == "lines+markers"] == ["mine"]
    twice = plot([path.profile("test"), path.profile("test")], of="loss")
    assert {"bezier", "bezier 2"} <= {t.name for t in twice.data}


def test_infinite_losses_are_gaps_not_errors():
    profile = make_profile("segment", "test", 0.5, 100)
    profile.evaluation.loss[12] = math.inf
    drawn = next(t for t in plot(profile, of="loss").data if t.mode == "lines+markers")
    assert drawn.y[12] is None
    assert all(math.isfinite(y) for y in drawn.y[:12])


def test_barriers_are_placed_on_an_axis_that_is_linear_near_zero():
    figure = plot([a_barrier(), a_barrier(0.0, -0.01, 0.01, split="train")], names=["p", "p"])
    assert list(figure.data[0].x) == pytest.approx([math.asinh(40.0)])
    assert list(figure.data[1].x) == [0.0]
    assert list(figure.data[0].customdata[0]) == pytest.approx([40.0, 35.0, 45.0])
    assert "✕ barrier" in figure.layout.yaxis.ticktext[0]


@pytest.mark.parametrize("view", ["map", "relief"])
def test_a_plane_shows_models_line_and_curve(view):
    surface = make_surface()
    figure = plot(surface, view=view)
    torch.testing.assert_close(10 ** torch.tensor(figure.data[0].z).double(), surface.loss, rtol=1e-6, atol=0)
    names = {t.name for t in figure.data}
    assert {"straight line", "curve", "models"} <= names
    if view == "map":
        assert figure.layout.yaxis.scaleanchor == "x"
        assert "logarithmic" in figure.layout.title.text
        ticks = dict(zip(figure.data[0].colorbar.ticktext, figure.data[0].colorbar.tickvals, strict=True))
        assert ticks["1"] == 0.0


def test_an_error_of_none_has_a_place_on_a_logarithmic_map():
    surface = make_surface()
    figure = plot(replace(surface, error=torch.zeros_like(surface.error)), of="error")
    assert min(min(row) for row in figure.data[0].z) == pytest.approx(math.log10(100 * 0.5 / 300))


def test_matching_and_connection_are_drawn(study):
    assert list(plot(study.matching).data[0].x) == [95.0, 50.0]
    weights = Weights.from_module(torch.nn.Linear(2, 2))
    path = Segment(weights, weights * 2.0)
    connection = Connection(path, Outcome.COMPLETED, torch.tensor([2.0, 1.0]), 2, {})
    assert list(plot(connection).data[0].y) == [2.0, 1.0]


@pytest.mark.parametrize("record", [3, "text", [], [a_barrier(), 3]])
def test_what_cannot_be_drawn_is_refused(record):
    with pytest.raises(SettingError, match="expected a Profile, Barrier"):
        plot(record)


def test_an_unknown_option_is_refused(study):
    with pytest.raises(SettingError, match=r"no option 'colour': it takes of, along"):
        plot(study, colour="red")
    with pytest.raises(SettingError, match="of='accuracy'"):
        plot(study, of="accuracy")


def test_names_in_figures_are_text():
    surface = replace(make_surface(), names=("<a href='x'>A</a>", "B", "C"))
    figure = plot(surface)
    models = next(t for t in figure.data if t.name == "models")
    assert models.text[0] == "<b>&lt;a href='x'&gt;A&lt;/a&gt;</b>"


# -- terminal ------------------------------------------------------------------------------------


def printed(*shown, width=80):
    console = Console(width=width, record=True, file=open("/dev/null", "w", encoding="utf-8"))  # noqa: SIM115
    with console.file:
        console.print(*shown)
    return console.export_text()


def test_tables_fit_eighty_columns_and_show_both_splits(study):
    text = printed(terminal.study_table(study))
    assert "…" not in text
    assert "60.00 %" in text
    assert text.count("held-out") == text.count("train") == 4
    for shown in (
        terminal.score_table([("A", study.ends[0].scores)]),
        terminal.barrier_table(study.paths[0].barriers),
        terminal.matching_table(study.matching),
    ):
        assert "…" not in printed(shown)


def test_markup_in_names_is_text(study):
    assert "[red]x[/red]" in printed(terminal.score_table([("[red]x[/red]", study.ends[0].scores)]))


def test_the_terminal_loads_no_plotting_library():
    code = "import isthmus.report.terminal, sys; sys.exit('plotly' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- the page ------------------------------------------------------------------------------------


def without_library(page):
    """The page without the embedded plotting library, which names many addresses in its source."""
    start = page.index("<script>/**")
    return page[:start] + page[page.index("</script>", start) + len("</script>") :]


def test_the_page_refers_to_nothing_outside_itself(study):
    page = without_library(render_report(study))
    references = re.findall(r"""(?:src|href|action|data|poster)\s*=\s*["']([^"']*)""", page)
    assert all(reference.startswith("#") or reference == "data:," for reference in references)
    assert "http://" not in page
    assert "https://" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_the_page_says_everything_in_order(study):
    page = render_report(study)
    titles = re.findall(r"<h2[^>]*>([^<]*)</h2>", page)
    assert titles == [
        "The two networks", "The paths between them", "Along the paths", "The barriers side by side",
        "The plane through three networks", "How long the paths are", "What was matched",
        "How the paths were found", "How to read this", "Provenance",
    ]  # fmt: skip
    assert page.count("<h1>") == 1
    for said in (
        "10¹⁷⁸",
        "isthmus connect A B",
        "0" * 64,
        "unwrapped",
        "the input of the network",
        "nothing about",
    ):
        assert said in page
    assert page.count('<script type="application/json"') == page.count('class="plot"') == 9


def test_what_users_wrote_is_escaped():
    page = without_library(render_report(make_study(source=HOSTILE)))
    assert "alert(" in page
    assert "<script>alert" not in page
    assert "Digits &lt;8x8&gt;." in page
    study = make_study()
    surface = replace(study.surfaces[0], names=(HOSTILE, "B", "</script>"), curve_name=HOSTILE)
    page = without_library(render_report(replace(study, surfaces=(surface,), task=HOSTILE)))
    assert "<script>alert" not in page
    assert page.count("</script>") == page.count("<script")


def test_the_same_records_give_the_same_bytes(study, tmp_path):
    write_report(study, tmp_path / "one.html")
    write_report(make_study(), tmp_path / "two.html")
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.html", "two.html"]


def test_single_records_make_a_page(study):
    records = [
        study.path("curve").profile("test"),
        a_barrier(),
        study.surfaces[0],
        study.matching,
        study.paths[0],
    ]
    page = render_report(records)
    assert page.count("<h2") == 5
    assert "error barrier 40.00 %" in page.replace("\u00a0", " ")
    with pytest.raises(SettingError, match="nothing to report"):
        render_report([])
    with pytest.raises(SettingError, match="no figure of a int"):
        render_report([3])


def test_what_is_not_finite_is_told_and_not_drawn(study):
    profile = make_profile("segment", "test", 0.5, 100)
    profile.evaluation.loss[12] = math.inf
    found = tuple(barrier(profile, above, of=of) for of in ("loss", "error") for above in ("mean", "chord"))
    train = tuple(replace(each, split="train") for each in found)
    path = replace(study.paths[0], profiles=(profile,), barriers=found + train)
    surface = make_surface()
    surface.loss[0, 0] = math.nan
    page = without_library(render_report(replace(study, paths=(path,), surfaces=(surface,))))
    assert "∞" in page
    drawn = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page)
    assert len(drawn) == 8
    assert not [spec for spec in drawn if re.search(r":\s*(NaN|-?Infinity)|[\[,]\s*(NaN|-?Infinity)", spec)]


def test_two_studies_share_a_page_without_sharing_names(study):
    page = render_report([study, study])
    names = re.findall(r' id="([^"]+)"', without_library(page))
    assert len(names) == len(set(names))


def test_a_table_has_headers_and_a_verdict_more_than_a_colour(study):
    page = render_report(study)
    assert '<th scope="col"' in page
    assert '<th scope="row"' in page
    for verdict in (Verdict.BARRIER, Verdict.CONNECTED):
        assert re.search(rf'class="badge {verdict.name.lower()}">[✓✕?] {verdict.name.lower()}<', page)


# -- files ---------------------------------------------------------------------------------------


def test_an_unknown_format_is_refused(study, tmp_path):
    with pytest.raises(SettingError, match="expected figures as png, svg"):
        save_figures(study, tmp_path, formats=("bmp",))
    assert not list(tmp_path.iterdir())


def test_a_missing_browser_is_told(study, tmp_path, monkeypatch):
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "none"))
    with pytest.raises(MissingDependencyError, match="BROWSER_PATH"):
        save_figures(study, tmp_path / "figures")
    assert not (tmp_path / "figures").exists()


def test_a_missing_kaleido_is_told(study, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(MissingDependencyError, match="pip install"):
        save_figures(study, tmp_path)


def test_random_names_in_a_drawing_are_numbered():
    one = (
        b'<svg><g id="defs-a1b2c3"/><clipPath id="clipa1b2c3xy"/><path clip-path="url(#clipa1b2c3xy)"/></svg>'
    )
    assert export._without_random_names(one) == export._without_random_names(
        one.replace(b"a1b2c3", b"ffee00")
    )
