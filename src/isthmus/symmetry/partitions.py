"""Distinct values of integer tensors: torch's `unique` with types."""

from __future__ import annotations

import torch
from torch import Tensor


def distinct(values: Tensor) -> Tensor:
    """The distinct values, ascending."""
    found: Tensor = torch.unique(values)
    return found


def numbered(values: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct values, ascending, and for each element the number of its value."""
    found, inverse = torch.unique(values, return_inverse=True)
    return found, inverse


def numbered_by_appearance(values: Tensor) -> Tensor:
    """For each element the number of its value, values counted in the order in which they first occur."""
    found, inverse = numbered(values)
    places = torch.arange(inverse.numel()).view_as(inverse)
    first = torch.full_like(found, inverse.numel())
    first = first.scatter_reduce(0, inverse.reshape(-1), places.reshape(-1), "amin")
    return first.argsort().argsort()[inverse]


def counted(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `numbered`, and how often each value occurs."""
    found, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    return found, inverse, counts


def numbered_rows(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The distinct rows of a matrix, for each row its number, and how often each occurs."""
    found, inverse, counts = torch.unique(rows, dim=0, return_inverse=True, return_counts=True)
    return found, inverse, counts


def count_distinct(values: Tensor) -> int:
    """How many distinct values there are."""
    return distinct(values).numel()
