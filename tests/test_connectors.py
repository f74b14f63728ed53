"""The contract of every connector. A new one adds a line to CONNECTORS and passes."""

import pytest
import torch

from conftest import Killed, Killer
from isthmus import (
    AnalyticLandscape,
    BandConnector,
    CurveConnector,
    Cycle,
    Landscape,
    Segment,
    StringConnector,
    Weights,
    barrier,
    profile,
    train,
)
from isthmus.connect import AbstractConnector, Outcome
from isthmus.errors import SettingError
from isthmus.io.state import FileStore

CONNECTORS: dict[str, AbstractConnector] = {
    "bezier": CurveConnector("bezier", steps=120, seed=3),
    "bezier of three bends": CurveConnector("bezier", bends=3, steps=120, seed=3),
    "chain": CurveConnector("chain", steps=120, seed=3),
    "bezier by arc length": CurveConnector(sampling="arc", steps=120, seed=3),
    "chain of three starts": CurveConnector("chain", restarts=3, steps=120, seed=3),
    "string": StringConnector(times=1.5, steps=600),
    "band": BandConnector(cycles=(Cycle(30, 0.03),) * 3, threshold=0.05, seed=3),
}

SUCCEEDED = (Outcome.COMPLETED, Outcome.CONNECTED_AT_LEVEL)


@pytest.fixture(params=CONNECTORS, ids=list(CONNECTORS))
def connector(request: pytest.FixtureRequest) -> AbstractConnector:
    return CONNECTORS[request.param]


@pytest.fixture
def ends(task) -> tuple[Weights, Weights]:
    return train(task, 1), train(task, 2)


def test_the_ends_are_kept_to_the_last_bit(connector, ends, task) -> None:
    found = connector.connect(ends, Landscape(task))
    assert found.path(0).equal(ends[0])
    assert found.path(1).equal(ends[1])


def test_the_path_is_lower_than_the_line(connector, ends, task) -> None:
    land = Landscape(task)
    found = connector.connect(ends, land)
    line, path = (barrier(profile(p, land, split="train")).height for p in (Segment(*ends), found.path))
    assert path < 0.8 * line
    assert found.outcome in SUCCEEDED
    assert found.length >= found.endpoint_distance * (1 - 1e-9)


def test_the_same_seed_gives_the_same_path_whatever_the_callers_randomness(connector, ends, task) -> None:
    one = connector.connect(ends, Landscape(task))
    torch.manual_seed(99)
    two = connector.connect(ends, Landscape(task))
    assert all(x.equal(y) for x, y in zip(one.path.controls, two.path.controls, strict=True))


def test_a_kill_changes_nothing(connector, ends, task, tmp_path) -> None:
    whole = connector.connect(ends, Landscape(task))
    with pytest.raises(Killed):
        connector.connect(ends, Landscape(task), store=Killer(tmp_path / "state", after=40, every=7))
    resumed = connector.connect(ends, Landscape(task), store=FileStore(tmp_path / "state"))
    assert all(x.equal(y) for x, y in zip(resumed.path.controls, whole.path.controls, strict=True))


def test_it_runs_on_any_landscape(connector) -> None:
    land = AnalyticLandscape(lambda x: x.square().sum())
    points = [Weights.from_state_dict({"x": torch.tensor(p)}) for p in ([1.0, 0.0], [0.0, 1.0])]
    assert connector.connect(points, land).outcome in SUCCEEDED


def test_points_in_between_are_where_inner_controls_start(ends, task) -> None:
    middle = (ends[0] + ends[1]) * 0.4
    found = CurveConnector(steps=1, rate=1e-12).connect((ends[0], middle, ends[1]), Landscape(task))
    torch.testing.assert_close(found.path.controls[1].vector, middle.vector)


def test_refusals(ends, task) -> None:
    with pytest.raises(SettingError, match="bezier or chain and at least 1 bend"):
        CurveConnector("spline")
    with pytest.raises(SettingError, match="needs at least 2 control points"):
        CurveConnector().connect(ends[:1], Landscape(task))
