"""Profiles and barriers on landscapes whose barrier is known; intervals with their true coverage."""

import math

import pytest
import torch
from torch.testing import assert_close

from isthmus import AnalyticLandscape, Bezier, Evaluation, Landscape, Profile, Segment, Verdict, Weights
from isthmus import barrier as barrier_of
from isthmus import profile as profile_of
from isthmus.errors import SettingError
from isthmus.scores import score


def at(*x: float) -> Weights:
    return Weights.from_state_dict({"x": torch.tensor(x, dtype=torch.float64)})


def double_well(x: torch.Tensor) -> torch.Tensor:
    """Minima at ±1 with values 0, and a hill of height 1 between them that is tilted by a linear term."""
    return (x[0].square() - 1).square() + 0.2 * (x[0] + 1)


def made(loss: torch.Tensor, split: str = "test") -> Profile:
    t = torch.linspace(0, 1, len(loss), dtype=torch.float64)
    return Profile("segment", t, t, 1.0, Evaluation(loss, (loss > 0.5).float(), split))


def test_a_known_barrier() -> None:
    land = AnalyticLandscape(lambda x: (x[0].square() - 1).square())
    found = barrier_of(profile_of(Segment(at(-1.0), at(1.0)), land))
    assert found.height == pytest.approx(1.0)
    assert found.at == 0.5
    assert (found.low, found.high) == (found.height, found.height)


def test_mean_and_chord_on_a_tilted_well() -> None:
    found = profile_of(Segment(at(-1.0), at(1.0)), AnalyticLandscape(double_well), points=201)
    top = float(found.loss.max())
    assert barrier_of(found).height == pytest.approx(top - 0.2)
    line = 0.4 * found.t
    assert barrier_of(found, "chord").height == pytest.approx(float((found.loss - line).max()))


def test_refinement_finds_a_narrow_peak() -> None:
    peak = AnalyticLandscape(lambda x: torch.exp(-((x[0] - 0.13) / 0.05).square()))
    path = Segment(at(0.0), at(1.0))
    coarse, fine = (barrier_of(profile_of(path, peak, 9, refine=n)) for n in (0, 8))
    assert fine.height > coarse.height
    assert fine.height == pytest.approx(1, abs=1e-3)
    assert fine.at == pytest.approx(0.13, abs=2e-3)
    positions = profile_of(path, peak, 9, refine=8).t
    assert bool((positions.diff() > 0).all())


def test_arc_length_spacing_and_mean() -> None:
    path = Bezier((at(0.0, 0.0), at(0.0, 0.0), at(4.0, 0.0)))
    land = AnalyticLandscape(lambda x: x[0])
    even = profile_of(path, land, 11, refine=0, spacing="arc")
    assert_close(even.distance.diff(), torch.full((10,), 0.4, dtype=torch.float64), rtol=1e-3, atol=0)
    assert profile_of(path, land, 301).arc_mean() == pytest.approx(2.0, rel=1e-3)


def test_resamples_are_paired_and_agree_with_a_naive_bootstrap() -> None:
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(1, 300, generator=generator).abs() * 5
    loss = (
        common + torch.tensor([[0.0], [1.0], [0.5], [0.0]]) + 0.1 * torch.randn(4, 300, generator=generator)
    )
    found = barrier_of(made(loss), resamples=4000)
    heights = []
    for _ in range(4000):
        means = loss[:, torch.randint(300, (300,), generator=generator)].double().mean(1)
        heights.append(float((means - (means[0] + means[-1]) / 2).max()))
    low, high = torch.tensor(heights).quantile(torch.tensor([0.025, 0.975])).tolist()
    assert found.low == pytest.approx(min(low, 2 * found.height - high), abs=3e-3)
    assert found.high == pytest.approx(max(high, 2 * found.height - low), abs=3e-3)
    assert found.high - found.low < 0.1, "the common noise cancels because the examples are paired"


def test_the_interval_covers_the_true_barrier_about_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(1)
    hits = 0
    for _ in range(200):
        loss = torch.tensor([[0.0], [2.0], [0.0]]) + torch.randn(3, 80, generator=generator)
        found = barrier_of(made(loss), resamples=300)
        hits += found.low <= 2.0 <= found.high
    assert 0.90 <= hits / 200 <= 0.985


def correlated_errors(n: int, rho: float, rates: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Right or wrong at every point of a path: a latent score that changes slowly along it."""
    latent = torch.empty(len(rates), n, dtype=torch.float64)
    latent[0] = torch.randn(n, generator=generator)
    for k in range(1, len(rates)):
        latent[k] = rho * latent[k - 1] + math.sqrt(1 - rho**2) * torch.randn(n, generator=generator)
    return (latent < torch.special.ndtri(rates.double())[:, None]).double()


@pytest.mark.parametrize(
    ("n", "rho", "rate", "height", "least", "false_barriers"),
    [
        (600, 0.98, 0.05, 0.0, 0.78, 0.02),
        (600, 0.9, 0.1, 0.0, 0.74, 0.04),
        (300, 0.9, 0.3, 0.0, 0.75, 0.08),
        (600, 0.9, 0.1, 0.1, 0.93, None),
        (600, 0.98, 0.05, 0.02, 0.91, None),
        (600, 0.99, 0.01, 0.003, 0.92, 0.02),
    ],
)
def test_how_often_the_interval_of_a_maximum_holds_the_truth(
    n: int, rho: float, rate: float, height: float, least: float, false_barriers: float | None
) -> None:
    """25 points with true rates known; flat paths of little correlated points are the hard case.

    A percentile interval holds the truth of a flat path never, and calls it a barrier up to every second
    time. Measured over 150 trials each: 0.86, 0.83, 0.84, 0.99, 0.97, 0.98 (nominal 0.95); the bounds
    leave room for 120 trials.
    """
    t = torch.linspace(0, 1, 25, dtype=torch.float64)
    rates = rate + height * (1 - (2 * t - 1).abs())
    generator = torch.Generator().manual_seed(4)
    hits, barriers, trials = 0, 0, 120
    for _ in range(trials):
        error = correlated_errors(n, rho, rates, generator)
        found = barrier_of(
            Profile("segment", t, t, 1.0, Evaluation(error, error, "test")), of="error", resamples=300
        )
        hits += found.low <= height <= found.high
        barriers += found.verdict(0.02) is Verdict.BARRIER
    assert hits / trials >= least
    if false_barriers is not None:
        assert barriers / trials <= false_barriers


def test_blocks_of_resamples_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = torch.rand(5, 50, generator=torch.Generator().manual_seed(2))
    whole = barrier_of(made(loss), resamples=64)
    monkeypatch.setattr("isthmus.barriers._RESAMPLE_BLOCK", 50 * 64)
    assert barrier_of(made(loss), resamples=64) == whole
    assert barrier_of(made(loss), resamples=64, seed=1) != whole


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.0, 0.019, Verdict.CONNECTED), (0.021, 0.3, Verdict.BARRIER), (0.01, 0.03, Verdict.UNDECIDED)],
)
def test_verdicts(low: float, high: float, verdict: Verdict) -> None:
    loss = torch.zeros(3, 10)
    found = barrier_of(made(loss))
    changed = type(found)(**{**vars(found), "low": low, "high": high})
    assert changed.verdict(0.02) is verdict


def test_an_infinite_loss_is_an_infinite_barrier() -> None:
    loss = torch.ones(3, 10)
    loss[1, 4] = math.nan
    found = barrier_of(made(loss))
    assert math.isinf(found.height)
    assert math.isinf(found.high)


def test_an_infinite_end_is_undecided() -> None:
    loss = torch.ones(3, 10)
    loss[0, 4] = math.inf
    found = barrier_of(made(loss))
    assert math.isnan(found.height)
    assert found.verdict() is Verdict.UNDECIDED


def test_the_interval_holds_the_height_and_is_not_negative() -> None:
    generator = torch.Generator().manual_seed(6)
    for _ in range(20):
        found = barrier_of(made(torch.rand(9, 40, generator=generator)), resamples=200)
        assert 0 <= found.low <= found.height <= found.high


def test_two_splits_share_batch_norm_statistics(image_task) -> None:
    land = Landscape(image_task)
    path = Segment(*(Weights.from_module(image_task.build(seed)) for seed in (1, 2)))
    for split in ("train", "test"):
        found = profile_of(path, land, 5, split)
        assert found.evaluation.batchnorm == "recalibrate"
        assert found.evaluation.examples == {"train": 70, "test": 30}[split]


def test_scores_have_sensible_intervals_at_zero_errors() -> None:
    loss = torch.rand(1, 100)
    found = score(Evaluation(loss, torch.zeros(1, 100), "test"))
    assert found.error == 0
    assert found.error_low == pytest.approx(0, abs=1e-12)
    assert found.error_high == pytest.approx(0.0370, abs=1e-4)  # Wilson's upper limit for 0 of 100
    assert found.loss_low < found.loss < found.loss_high
    half = score(Evaluation(loss, torch.full((1, 100), 0.5), "test"))
    assert half.error_low == half.error_high == 0.5


def test_refusals() -> None:
    land = AnalyticLandscape(double_well)
    with pytest.raises(SettingError, match="at least 3 points"):
        profile_of(Segment(at(0.0), at(1.0)), land, points=2)
    found = profile_of(Segment(at(0.0), at(1.0)), land)
    with pytest.raises(SettingError, match="above='mean'"):
        barrier_of(found, above="median")
    with pytest.raises(SettingError, match="0 < level < 1"):
        barrier_of(found, level=95)
