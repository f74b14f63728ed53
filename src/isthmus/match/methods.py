"""The matchers by name: what the command line and the comparisons call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from isthmus.errors import SettingError
from isthmus.fanout import Fanout, Serial
from isthmus.landscape import Landscape
from isthmus.match.activation import match_activations
from isthmus.match.annealing import match_annealing
from isthmus.match.learned import match_learned
from isthmus.match.sinkhorn import match_sinkhorn
from isthmus.match.straight_through import match_straight_through
from isthmus.match.weight import match_weights
from isthmus.progress import Progress
from isthmus.symmetry import Alignment, Symmetry
from isthmus.weights import Weights


@dataclass(frozen=True)
class Question:
    """What every matcher is asked.

    Attributes:
        a: the weights that stay.
        b: the weights that are brought to them.
        symmetry: of their network.
        landscape: the network and its data.
        restarts: starts of weight matching.
        seed: of everything random.
        progress: shows bars; silent if None.
        fanout: where the starts of weight matching run.
    """

    a: Weights
    b: Weights
    symmetry: Symmetry
    landscape: Landscape
    restarts: int = 1
    seed: int = 0
    progress: Progress | None = None
    fanout: Fanout = Serial()  # noqa: RUF009 - a frozen value


Answer = Callable[[Question], Alignment]
"""A matcher with its default settings: the alignment that brings B to A."""


def _weight(q: Question) -> Alignment:
    return match_weights(q.a, q.b, q.symmetry, restarts=q.restarts, seed=q.seed, fanout=q.fanout)


def _activation(q: Question) -> Alignment:
    return match_activations(q.a, q.b, q.symmetry, q.landscape, progress=q.progress)


def _by_descent(match: Callable[..., Alignment]) -> Answer:
    def answer(question: Question) -> Alignment:
        q = question
        return match(q.a, q.b, q.symmetry, q.landscape, seed=q.seed, progress=q.progress)

    return answer


METHODS: Mapping[str, Answer] = MappingProxyType(
    {
        "weight": _weight,
        "activation": _activation,
        "ste": _by_descent(match_straight_through),
        "learned": _by_descent(match_learned),
        "sinkhorn": _by_descent(match_sinkhorn),
        "anneal": _by_descent(match_annealing),
    }
)
"""Name -> matcher, the cheapest first."""


def match_by(method: str, question: Question) -> Alignment:
    """Align B to A by the method of this name.

    Raises:
        SettingError: there is none of this name.
    """
    if method not in METHODS:
        raise SettingError(f"expected a method of matching ({', '.join(METHODS)}), got {method!r}")
    return METHODS[method](question)
