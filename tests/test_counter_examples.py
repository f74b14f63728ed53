"""The page of counter-examples: every element is tried, and what the page says is what comes out."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from isthmus import Alignment, Landscape, Segment, barrier, discover, match_weights, profile
from isthmus.seeds import seeded

PAGE = Path(__file__).parents[1] / "docs" / "counter-examples.md"
TEXT = PAGE.read_text(encoding="utf-8")
ORDERS = ("as they are", "second layer swapped", "first layer swapped", "both swapped")


@pytest.fixture(scope="module")
def page() -> SimpleNamespace:
    """The names that the code on the page defines, one block after the other."""
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        exec(block, names)
    return SimpleNamespace(**names)


def rows(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def swapped(symmetry, first: bool, second: bool) -> Alignment:
    orders = [torch.tensor([1, 0] if swap else [0, 1]) for swap in (first, second)]
    return Alignment(symmetry, dict(zip((axis.name for axis in symmetry.axes), orders, strict=True)))


# -- no permutation connects ----------------------------------------------------------------------


def test_both_networks_are_perfect_and_compute_one_function(page):
    x = torch.rand(4096, 2, generator=seeded(0, "square")) * 2 - 1
    wanted = (x[:, 0] <= 0) & (x[:, 1] >= 0)
    for weights in (page.a, page.b):
        with torch.no_grad():
            out = weights.to_module(page.model())(x)[:, 0]
        assert torch.equal(out >= 0, wanted)
        torch.testing.assert_close(out, -x[:, 0].relu() - (-x[:, 1]).relu())
    ends = page.land.evaluate([page.a, page.b])
    assert float(ends.loss.max()) == 0
    assert float(ends.error.max()) == 0


def test_the_group_has_four_elements_and_is_whole(page):
    symmetry = page.symmetry
    assert [axis.size for axis in symmetry.axes] == [2, 2]
    assert round(2**symmetry.log2_order) == 4 == len(list(page.elements(symmetry)))
    for g in page.elements(symmetry):
        assert float(page.land.evaluate([g.apply(page.b)]).loss.max()) == 0


def test_no_element_connects_them(page):
    losses = [barrier(line).height for line in page.lines]
    errors = [barrier(line, of="error").height for line in page.lines]
    assert min(losses) == pytest.approx(1 / 12, rel=2e-3)
    assert min(errors) >= 0.25
    products = [page.a.dot(g.apply(page.b)) for g in page.elements(page.symmetry)]
    for order, product, loss, error in zip(ORDERS, products, losses, errors, strict=True):
        told = rows(order, f"{product:.0f}".replace("-", "−"), f"{loss:.3f}", f"{100 * error:.1f} %")
        assert told in TEXT


def test_no_point_of_any_line_but_its_ends_is_perfect(page):
    for g in page.elements(page.symmetry):
        line = Segment(page.a, g.apply(page.b)).at(torch.linspace(0, 1, 41, dtype=torch.float64))
        found = page.land.evaluate(line)
        assert bool((found.mean_error[1:-1] > 0.005).all())
        assert bool((found.mean_loss[1:-1] > 0).all())


def test_the_best_inner_product_is_found_and_does_not_help(page):
    found = match_weights(page.a, page.b, page.symmetry)
    best = max(page.a.dot(g.apply(page.b)) for g in page.elements(page.symmetry))
    assert found.objective == pytest.approx(best) == 6
    line = profile(Segment(page.a, found.apply(page.b)), page.land)
    assert barrier(line, of="error").height > 0.25


def test_one_silent_unit_in_each_layer_removes_the_error_barrier_but_not_the_loss_barrier(page):
    """A unit of the one network may then be averaged with nothing instead of with the wrong one."""
    from torch import nn

    def wide() -> nn.Module:
        return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 1))

    def widened(weights):
        module = wide()
        for parameter, value in zip(module.parameters(), weights.values(), strict=True):
            parameter.data = torch.zeros(parameter.shape)
            parameter.data[tuple(slice(size) for size in value.shape)] = value
        return page.im.Weights.from_module(module)

    task = page.im.Task(
        model=wide, train=page.task.train, test=page.task.test, loss=page.task.loss, error=page.task.error
    )
    symmetry = discover(wide(), torch.zeros(1, 2), verify=False)
    a, b = widened(page.a), widened(page.b)
    land = Landscape(task)
    elements = list(page.elements(symmetry))
    assert len(elements) == 36
    found = land.evaluate([(a + g.apply(b)) * 0.5 for g in elements])
    assert float(found.mean_loss.min()) == pytest.approx(0.0468, abs=1e-4)
    best = elements[int(found.mean_error.argmin())]
    line = profile(Segment(a, best.apply(b)), land)
    assert barrier(line, of="error").height == 0
    assert barrier(line).height == pytest.approx(0.0755, abs=1e-4)


# -- a single pass from the input -----------------------------------------------------------------


def single_pass(a, b, symmetry) -> Alignment:
    """Each layer by its incoming weights alone, those of the layers before it being settled."""
    first, second = (axis.name for axis in symmetry.axes)
    orders = [torch.tensor(order) for order in itertools.permutations(range(2))]
    one = max(orders, key=lambda p: float((a["0.weight"] * b["0.weight"][p]).sum()))
    two = max(orders, key=lambda p: float((a["2.weight"] * b["2.weight"][:, one][p]).sum()))
    return Alignment(symmetry, {first: one, second: two})


def test_a_single_pass_keeps_the_wrong_order(page):
    greedy = single_pass(page.left, page.right, page.group)
    assert all(torch.equal(p, torch.arange(2)) for p in greedy.permutations.values())


@pytest.mark.parametrize("order", ["random", "forward"])
def test_coordinate_descent_swaps_both_in_every_order(page, order):
    for seed in range(10):
        found = match_weights(page.left, page.right, page.group, start="identity", order=order, seed=seed)
        assert all(torch.equal(p, torch.tensor([1, 0])) for p in found.permutations.values())


def test_the_means_are_as_told(page):
    for order, (first, second) in zip(ORDERS, ((0, 0), (0, 1), (1, 0), (1, 1)), strict=True):
        moved = swapped(page.group, bool(first), bool(second)).apply(page.right)
        with torch.no_grad():
            slope = float(((page.left + moved) * 0.5).to_module(page.chain())(torch.ones(1, 1)))
        assert rows(order, f"{page.left.dot(moved):.4f}", f"{slope:.3f} x") in TEXT


# -- coordinate descent is greedy -----------------------------------------------------------------


def test_the_other_network_is_the_same_one_swapped(page):
    assert swapped(page.group, True, True).apply(page.two).equal(page.one)


def test_descent_from_the_identity_is_stuck_in_every_order(page):
    best = max(page.one.dot(g.apply(page.two)) for g in page.elements(page.group))
    for seed in range(10):
        for order in ("random", "forward"):
            stuck = match_weights(page.one, page.two, page.group, start="identity", seed=seed, order=order)
            assert stuck.objective == 12 < best == 15
            assert all(torch.equal(p, torch.arange(2)) for p in stuck.permutations.values())


def test_the_guess_and_restarts_find_the_best(page):
    for seed in range(10):
        assert match_weights(page.one, page.two, page.group, seed=seed).objective == 15
        settings = {"start": "identity", "restarts": 10, "seed": seed}
        assert match_weights(page.one, page.two, page.group, **settings).objective == 15


def test_the_tables_are_as_told(page):
    for order, (first, second) in zip(ORDERS, ((0, 0), (0, 1), (1, 0), (1, 1)), strict=True):
        moved = swapped(page.group, bool(first), bool(second)).apply(page.two)
        assert rows(order, f"{page.one.dot(moved):.0f}") in TEXT
    land = Landscape(page.nine)
    for told, found in (
        ('`start="identity"`', page.stuck), ("`start=\"best\"`, the default", page.found),
        ('`start="identity"`, `restarts=10`', page.again),
    ):  # fmt: skip
        height = barrier(profile(Segment(page.one, found.apply(page.two)), land)).height
        assert rows(told, f"{found.objective:.0f}", f"{abs(height):.3f}") in TEXT


def test_links_and_pictures_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert (PAGE.parent / target).exists(), target
