"""Randomness by name: every stream of random numbers is a digest of a seed and what it is for."""

from __future__ import annotations

import hashlib

import torch


def child_seed(seed: int, *name: object) -> int:
    """A seed for one named purpose, the same on every machine and in every process.

    Example:
        >>> child_seed(1, "order", 0) == child_seed(1, "order", 0) != child_seed(1, "order", 1)
        True
    """
    text = "/".join(str(part) for part in (seed, *name))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def seeded(seed: int, *name: object) -> torch.Generator:
    """A fresh CPU generator seeded for one named purpose."""
    return torch.Generator().manual_seed(child_seed(seed, *name))


def seed_default(seed: int, *name: object) -> None:
    """Seed torch's global generators (dropout draws from them) for one named purpose.

    `torch.manual_seed` is not used: without a GPU it records a stack trace at every call.
    """
    number = child_seed(seed, *name)
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(number)
