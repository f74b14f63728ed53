"""Transport plans against what is known of them: vertices, marginals, duality, brute force."""

from itertools import permutations

import pytest
import torch

from isthmus.errors import SettingError
from isthmus.match.transport import PlanSolver, transport_plan


def costs(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(n: int) -> torch.Tensor:
    return torch.full((n,), 1 / n, dtype=torch.float64)


@pytest.mark.parametrize("seed", range(5))
def test_equal_sizes_and_marginals_give_the_best_permutation(seed: int) -> None:
    cost = costs(6, 6, seed)
    plan = transport_plan(cost, uniform(6), uniform(6))
    best = min(permutations(range(6)), key=lambda p: sum(float(cost[i, j]) for i, j in enumerate(p)))
    expected = torch.zeros(6, 6, dtype=torch.float64)
    expected[range(6), list(best)] = 1 / 6
    torch.testing.assert_close(plan, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("method", ["exact", "sinkhorn"])
@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (1, 5), (5, 1), (6, 6)])
def test_the_marginals_are_exact(method: str, shape: tuple[int, int]) -> None:
    first, second = costs(shape[0], 1, 1)[:, 0] + 0.1, costs(1, shape[1], 2)[0] + 0.1
    first, second = first / first.sum(), second / second.sum()
    plan = transport_plan(costs(*shape), first, second, method)
    assert bool((plan >= 0).all())
    torch.testing.assert_close(plan.sum(1), first, rtol=0, atol=1e-14)
    torch.testing.assert_close(plan.sum(0), second, rtol=0, atol=1e-14)


def test_no_plan_is_cheaper_than_the_exact_one() -> None:
    cost, first, second = costs(5, 8), uniform(5), uniform(8)
    exact = float((transport_plan(cost, first, second) * cost).sum())
    for other in (torch.outer(first, second), transport_plan(cost, first, second, "sinkhorn", 0.05)):
        assert exact <= float((other * cost).sum()) + 1e-15


def test_entropic_plans_tend_to_the_exact_one_and_to_independence() -> None:
    cost, even = costs(6, 6, 3), uniform(6)
    exact = transport_plan(cost, even, even)
    torch.testing.assert_close(transport_plan(cost, even, even, "sinkhorn", 1e-3), exact, rtol=0, atol=1e-3)
    loose = transport_plan(cost, even, even, "sinkhorn", 1e3)
    torch.testing.assert_close(loose, torch.outer(even, even), rtol=0, atol=1e-4)


def test_zero_costs_are_no_trouble() -> None:
    for method in ("exact", "sinkhorn"):
        plan = transport_plan(torch.zeros(3, 2), uniform(3), uniform(2), method)
        torch.testing.assert_close(plan.sum(1), uniform(3), rtol=0, atol=1e-14)


def test_a_scaled_cost_gives_the_same_entropic_plan() -> None:
    cost, even = costs(5, 5, 4), uniform(5)
    first, second = (transport_plan(scale * cost, even, even, "sinkhorn", 0.1) for scale in (1.0, 1e4))
    torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: PlanSolver("greedy"), "must be one of 'exact', 'sinkhorn', got 'greedy'"),
        (lambda: PlanSolver("sinkhorn", 0.0), "must be above 0, got 0.0"),
        (lambda: transport_plan(costs(2, 3), uniform(3), uniform(2)), r"shape \[3, 2\], got \[2, 3\]"),
        (lambda: transport_plan(costs(2, 2) / 0, uniform(2), uniform(2)), "with values that are not"),
        (lambda: transport_plan(costs(2, 2), torch.tensor([1.0, 0.0]), uniform(2)), "must be above 0"),
    ],
)
def test_what_is_no_problem_of_transport_is_refused(call, told: str) -> None:
    with pytest.raises(SettingError, match=told):
        call()
