"""The sparse solver against dense elimination, over numbers and over bits."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy.sparse import csr_array

from isthmus.symmetry.rescale import solver
from isthmus.symmetry.rescale.solver import independent, solve


def rank_of_bits(matrix: np.ndarray) -> int:
    """Gaussian elimination modulo 2, as in a textbook."""
    matrix, rank = matrix.copy() % 2, 0
    for column in range(matrix.shape[1]):
        rows = [row for row in range(rank, matrix.shape[0]) if matrix[row, column]]
        if not rows:
            continue
        matrix[[rank, rows[0]]] = matrix[[rows[0], rank]]
        for row in range(matrix.shape[0]):
            if row != rank and matrix[row, column]:
                matrix[row] ^= matrix[rank]
        rank += 1
    return rank


def rank(matrix: np.ndarray, modulus: int) -> int:
    if modulus:
        return rank_of_bits(matrix)
    return int(np.linalg.matrix_rank(matrix)) if matrix.size else 0


@pytest.mark.parametrize("modulus", [0, 2])
@pytest.mark.parametrize("seed", range(150))
def test_all_solutions_are_found(seed, modulus):
    generator = np.random.default_rng(seed)
    rows, columns = generator.integers(1, 14, 2)
    present = generator.random((rows, columns)) < generator.choice([0.15, 0.3, 0.6])
    equations = (generator.integers(-2, 3, (rows, columns)) * present).astype(np.int64)
    solution = solve(csr_array(equations), modulus)
    matrix = solution.matrix.toarray()
    residue = equations @ matrix
    assert not (residue % modulus if modulus else residue).any()
    free = columns - rank(equations, modulus)
    if solution.abandoned.size:
        assert rank(matrix, modulus) == matrix.shape[1] <= free
    else:
        assert rank(matrix, modulus) == matrix.shape[1] == free
        assert len(solution.free) == free


@pytest.mark.parametrize("modulus", [0, 2])
@pytest.mark.parametrize("seed", range(30))
def test_independent_columns_span_what_all_columns_span(seed, modulus):
    generator = np.random.default_rng(seed)
    matrix = (generator.integers(-1, 2, (8, 6)) * (generator.random((8, 6)) < 0.4)).astype(np.int64)
    chosen = independent(csr_array(matrix), modulus)
    assert len(chosen) == rank(matrix[:, chosen], modulus) == rank(matrix, modulus)


def test_a_chain_of_signs_and_a_contradiction():
    # x0 = -x1, x1 = x2, and x3 = -x3.
    equations = np.array([[1, 1, 0, 0], [0, 1, -1, 0], [0, 0, 0, 2]])
    matrix = solve(csr_array(equations), 0).matrix.toarray()
    assert np.array_equal(np.abs(matrix), [[1], [1], [1], [0]])
    assert matrix[0, 0] == -matrix[1, 0] == -matrix[2, 0]
    assert solve(csr_array(equations), 2).matrix.shape == (4, 2)


def test_coefficients_without_a_unit_are_solved_in_pairs():
    matrix = solve(csr_array(np.array([[2, -3]])), 0).matrix.toarray()
    assert np.array_equal(np.abs(matrix), [[3], [2]])


def test_what_is_too_hard_is_set_to_zero_and_reported(monkeypatch):
    monkeypatch.setattr(solver, "_FILL", 0)
    solution = solve(csr_array(np.array([[1, 1, 1, 0]])), 0)
    assert sorted(solution.abandoned) == [0, 1, 2]
    assert solution.matrix.shape == (4, 1)


@pytest.mark.parametrize("modulus", [0, 2])
def test_a_long_recurrence_is_solved_fast(modulus):
    count = 50_000
    first = np.arange(count - 2)
    columns = np.stack([first, first + 1, first + 2], 1).reshape(-1)
    rows = np.repeat(first, 3)
    equations = csr_array((np.tile([1, -1, 1], count - 2), (rows, columns)), shape=(count - 2, count))
    start = time.perf_counter()
    solution = solve(csr_array(equations.astype(np.int64)), modulus)
    assert solution.matrix.shape == (count, 2)
    assert time.perf_counter() - start < 20
