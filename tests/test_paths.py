"""Geometry of paths: exact ends, lengths known in closed form, tangents against differences."""

import math
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from conftest import random_weights
from isthmus import Bezier, Chain, Plane, Segment, Weights, combine
from isthmus.errors import LayoutError, SettingError
from isthmus.path.arc import positions_at_shares
from isthmus.path.bend import bent


def controls(count: int) -> list[Weights]:
    base = Weights.from_module(nn.Linear(4, 5).double())
    return [random_weights(base, seed) for seed in range(count)]


def every_path() -> list:
    w = controls(5)
    return [
        Segment(w[0], w[1]),
        Chain(w[:2]),
        Chain(w[:3]),
        Chain(w),
        Bezier(w[:2]),
        Bezier(w[:3]),
        Bezier(w),
    ]


@pytest.mark.parametrize("path", every_path(), ids=lambda p: f"{p.kind}{len(p.controls)}")
class TestEveryPath:
    """The contract of `AbstractPath`."""

    def test_coefficients_sum_to_one(self, path) -> None:
        t = torch.linspace(0, 1, 23, dtype=torch.float64)
        assert_close(path.coefficients(t).sum(1), torch.ones(23, dtype=torch.float64))

    def test_ends_are_the_controls_themselves(self, path) -> None:
        assert path(0) is path.controls[0]
        assert path(1) is path.controls[-1]
        assert path.at(torch.tensor([0.0, 1.0]))[1] is path.controls[-1]

    def test_a_point_is_the_blend_of_the_controls(self, path) -> None:
        t = torch.tensor([0.37], dtype=torch.float64)
        naive = sum((c * w.vector for c, w in zip(path.coefficients(t)[0], path.controls, strict=True)))
        assert_close(path(0.37).vector, naive)
        assert_close(path.at(t)[0].vector, naive)

    def test_the_tangent_is_the_derivative(self, path) -> None:
        step = 1e-6
        difference = (path(0.3 + step) - path(0.3 - step)) / (2 * step)
        assert_close(path.tangent(0.3).vector, difference.vector, rtol=1e-6, atol=1e-8)

    def test_the_length_agrees_with_a_polyline_in_weight_space(self, path) -> None:
        points = [path(t) for t in torch.linspace(0, 1, 201).tolist()]
        naive = sum(one.distance(two) for one, two in pairwise(points))
        assert path.length == pytest.approx(naive, rel=1e-3)
        assert path.length >= path.endpoint_distance * (1 - 1e-9)
        assert path.endpoint_distance == pytest.approx(path.controls[0].distance(path.controls[-1]))


def test_lengths_in_closed_form() -> None:
    a, b, c, *_ = controls(3)
    assert Chain((a, b, c)).length == pytest.approx(a.distance(b) + b.distance(c), rel=1e-6)
    flat = [
        Weights.from_state_dict({"w": torch.tensor(p, dtype=torch.float64)}) for p in ([0, 0], [1, 2], [2, 0])
    ]
    # The parabola y = 2 x − x² from 0 to 2: ∫ sqrt(1 + (2 − 2x)²) dx = sqrt(5) + asinh(2) / 2.
    assert Bezier(flat).length == pytest.approx(math.sqrt(5) + math.asinh(2) / 2, rel=1e-6)


def test_a_chain_is_measured_along_its_straight_pieces() -> None:
    """Exact at corners that no even grid hits, and without inner products of all controls."""
    chain = Chain(controls(8))
    pieces = [one.distance(two) for one, two in pairwise(chain.controls)]
    assert chain.length == pytest.approx(math.fsum(pieces), rel=1e-14)
    t = torch.tensor([0.1, 1.5 / 7, 0.3, 3 / 7, 0.9, 1.0], dtype=torch.float64)
    fine = torch.cat([t, torch.linspace(0, 7, 8, dtype=torch.float64) / 7]).unique()
    fine = fine[fine >= 0.1]
    points = [chain(position) for position in fine.tolist()]
    along = torch.tensor([0.0, *(one.distance(two) for one, two in pairwise(points))]).double().cumsum(0)
    expected = torch.stack([along[fine == position][0] for position in t])
    assert_close(chain.distances(t), expected, rtol=1e-6, atol=1e-6)
    assert float(chain.distances(torch.tensor([0.0, 1.0]))[-1]) == pytest.approx(chain.length, rel=1e-14)
    assert chain.endpoint_distance == chain.controls[0].distance(chain.controls[-1])
    assert "gram" not in vars(chain)


def test_straight_starts_lie_on_the_segment() -> None:
    a, b, *_ = controls(2)
    for path in (Bezier.between(a, b, 3), Chain.between(a, b, 3)):
        assert len(path.controls) == 5
        assert path.length == pytest.approx(a.distance(b))
        assert_close(path(0.25).vector, Segment(a, b)(0.25).vector)


@pytest.mark.parametrize("degree", [2, 7, 30, 100, 1100])
def test_bernstein_polynomials_at_high_degrees(degree: int) -> None:
    """Exact rational values; the sum is one and nothing is negative, where powers and binomials overflow."""
    point = Weights.from_state_dict({"x": torch.zeros(1, dtype=torch.float64)})
    t = torch.linspace(0, 1, 9, dtype=torch.float64)
    found = Bezier([point] * (degree + 1)).coefficients(t)
    assert_close(found.sum(dim=1), torch.ones(9, dtype=torch.float64), rtol=0, atol=1e-12)
    assert float(found.min()) >= 0
    for row, k in ((1, 0), (3, degree // 3), (4, degree // 2), (7, degree)):
        where = Fraction(float(t[row]))
        exact = math.comb(degree, k) * where**k * (1 - where) ** (degree - k)
        assert float(found[row, k]) == pytest.approx(float(exact), rel=1e-12)


@pytest.mark.parametrize("bends", [1, 9, 60])
def test_chains_of_many_bends(bends: int) -> None:
    """Coefficients sum to one and are not negative; every control is met; the straight start is straight."""
    a, b, *_ = controls(2)
    path = Chain.between(a, b, bends)
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    found = path.coefficients(t)
    assert_close(found.sum(dim=1), torch.ones(1001, dtype=torch.float64), rtol=0, atol=1e-12)
    assert float(found.min()) >= 0
    knots = path.coefficients(torch.linspace(0, 1, bends + 2, dtype=torch.float64))
    assert_close(knots, torch.eye(bends + 2, dtype=torch.float64), rtol=0, atol=1e-12)
    assert path.length == pytest.approx(a.distance(b))


def test_positions_by_arc_length() -> None:
    """A chain whose first piece is three times as long: half of its length is covered at t = 1/3."""
    places = ([0.0, 0.0], [3.0, 0.0], [3.0, 1.0])
    chain = Chain([Weights.from_state_dict({"w": torch.tensor(p, dtype=torch.float64)}) for p in places])
    grid = torch.linspace(0, 1, 201, dtype=torch.float64)
    shares = torch.tensor([0.0, 0.5, 0.75, 0.875, 1.0], dtype=torch.float64)
    found = positions_at_shares(grid, chain.distances(grid), shares)
    assert_close(found, torch.tensor([0, 1 / 3, 0.5, 0.75, 1], dtype=torch.float64))
    assert torch.equal(positions_at_shares(grid, torch.zeros(201, dtype=torch.float64), shares), shares)


def test_bent_starts_are_mirrored_pairs() -> None:
    a, b, *_ = controls(2)
    path = Bezier.between(a, b, 3)
    assert bent(path, 0.2, 5, 0) is path
    one, two, three = (bent(path, 0.2, 5, number) for number in (1, 2, 3))
    every = zip(path.controls, one.controls, two.controls, three.controls, strict=True)
    for straight, left, right, other in every:
        assert_close((left.vector + right.vector) / 2, straight.vector)
        inner = straight is not a and straight is not b
        assert left.distance(straight) == pytest.approx(0.2 * a.distance(b) if inner else 0)
        assert inner == (not other.equal(left))
    assert bent(path, 0.2, 5, 1).controls[2].equal(one.controls[2])


def test_a_bend_leaves_what_training_holds_still() -> None:
    a, b, *_ = controls(2)
    path = Bezier.between(a, b, 2)
    for plain, moved in zip(path.controls, bent(path, 0.2, 5, 1, [slice(3, 9)]).controls, strict=True):
        apart = moved.vector - plain.vector
        assert not apart[3:9].any()
        inner = plain is not a and plain is not b
        assert bool(apart[:3].all()) is bool(apart[9:].all()) is inner
        assert float(apart.norm()) == pytest.approx(0.2 * a.distance(b) if inner else 0)


def test_the_plane_holds_its_three_models() -> None:
    a, b, c, d = controls(4)
    plane = Plane(a, b, c)
    for corner, model in zip(plane.corners.tolist(), (a, b, c), strict=True):
        assert_close(plane(*corner).vector, model.vector)
    distances = torch.cdist(plane.corners, plane.corners)
    assert float(distances[0, 1]) == pytest.approx(a.distance(b))
    assert float(distances[1, 2]) == pytest.approx(b.distance(c))
    x, y, gap = plane.project(d)
    foot = plane(x, y)
    assert gap == pytest.approx(d.distance(foot))
    assert (d - foot).dot(b - a) == pytest.approx(0, abs=1e-9)
    assert plane.project(combine((0.2, 0.3, 0.5), (a, b, c)))[2] == pytest.approx(0, abs=1e-6)


def test_refusals() -> None:
    a, b, *_ = controls(2)
    with pytest.raises(SettingError, match="do not lie on one line"):
        Plane(a, b, combine((0.5, 0.5), (a, b)))
    with pytest.raises(SettingError, match="do not lie on one line"):
        Plane(a, a, b)
    with pytest.raises(SettingError, match="at least 2 control points, got 1"):
        Bezier((a,))
    with pytest.raises(LayoutError, match="other shape"):
        Segment(a, Weights.from_module(nn.Linear(3, 3).double()))
