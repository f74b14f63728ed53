"""The spanning tree of minima: which pair to test next, lowest known saddles, ultrametric heights.

Every path between two minima bounds their lowest pass from above, and so does every chain of paths: the
lowest known pass between i and j is the highest edge on the way from i to j in the minimum spanning tree of
all tested pairs. So not all pairs have to be tested. First every minimum is connected to the best one; then
the highest edge of the tree is attacked, again and again: without it the tree falls in two, and a pair with
one minimum on either side, not tested yet, is the only kind that can lower it. No path is lower than its
ends, so a pair of which one end is as high as that edge cannot replace it, and is not tested.

Pure functions of losses, distances and tested edges; the only module that imports networkx.

Source: Draxler et al. 2018, arXiv 1803.00885, section 3.3, and the authors' published code (the order).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import InitVar, dataclass, replace
from enum import Enum

import networkx as nx
import torch
from torch import Tensor

from isthmus.connect.abstract import Connection, Outcome, Saddle
from isthmus.errors import SettingError
from isthmus.path import AbstractPath, Segment


class Ending(Enum):
    """Why no further pair was tested."""

    ALL_TESTED = "every pair was tested"
    NONE_CAN_LOWER = "no pair that is left can lower the tree"
    BUDGET_USED = "the budget of edges was used"


@dataclass(frozen=True)
class Trial:
    """A pair of minima that is to be tested.

    Attributes:
        first: the number of one.
        second: the number of the other, which is higher.
        attacks: the ends of the tree's edge that it is to replace; empty in the star, and where it is to join
            parts that no path has joined.
    """

    first: int
    second: int
    attacks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Edge:
    """A pair of minima that was tested.

    Attributes:
        first: the number of one.
        second: the number of the other, which is higher.
        attacks: as in `Trial`.
        height: what counts in the tree: the saddle's loss, or that of the higher end where the path falls
            from there; infinite if no path was found.
        saddle: the highest point of the path; None if the fit diverged.
        outcome: how the connector ended.
        steps: gradient steps that it took.
        length: of the path.
        endpoint_distance: between the two minima.
    """

    first: int
    second: int
    attacks: tuple[int, ...]
    height: float
    saddle: Saddle | None
    outcome: Outcome
    steps: int
    length: float
    endpoint_distance: float

    @property
    def pair(self) -> tuple[int, int]:
        """The numbers of the two minima."""
        return self.first, self.second

    @property
    def joins(self) -> bool:
        """Whether a path was found."""
        return math.isfinite(self.height)


@dataclass(frozen=True, eq=False, repr=False)
class MinimaTree:
    """Minima, the pairs that were tested, and the spanning tree of the lowest known saddles.

    Attributes:
        names: of the minima.
        split: the data that losses and heights are of: "train" where the paths were fitted.
        losses: of the minima, shape (minima,), float64.
        distances: straight distances between them, shape (minima, minima), float64.
        edges: every pair that was tested, in this order.
        spanning: the tree: positions in `edges`, the lowest edge first. It has one edge less than there are
            minima, or fewer where fits diverged and some minima are joined to nothing.
        heights: the lowest known pass between every two minima, shape (minima, minima), float64: the highest
            edge on the tree's way, infinite where there is none; on the diagonal the minima's own losses.
        ending: why no further pair was tested.
        connections: the paths of `edges`, where they are at hand; they are no part of the record on disk.

    Limits: every height is an upper bound of the lowest pass, as good as the connector and the tested pairs.
    """

    names: tuple[str, ...]
    split: str
    losses: Tensor
    distances: Tensor
    edges: tuple[Edge, ...]
    spanning: tuple[int, ...]
    heights: Tensor
    ending: Ending
    connections: InitVar[Sequence[Connection]] = ()

    def __post_init__(self, connections: Sequence[Connection]) -> None:
        object.__setattr__(self, "connections", tuple(connections))

    def __repr__(self) -> str:
        return (
            f"MinimaTree({len(self.names)} minima, {len(self.edges)} pairs tested; {self.split} loss "
            f"{float(self.losses.mean()):.4g} at minima, {self.saddle_mean:.4g} at the tree's saddles)"
        )

    @property
    def best(self) -> int:
        """The number of the lowest minimum."""
        return int(self.losses.argmin())

    @property
    def tree_edges(self) -> tuple[Edge, ...]:
        """The edges of the spanning tree, the lowest first."""
        return tuple(self.edges[position] for position in self.spanning)

    @property
    def saddle_mean(self) -> float:
        """The mean height of the tree's edges; not a number if it has none."""
        found = [edge.height for edge in self.tree_edges]
        return math.fsum(found) / len(found) if found else math.nan

    @property
    def ratio(self) -> float:
        """The mean height of the tree's edges over the mean loss of the minima, as published."""
        bottom = float(self.losses.mean())
        return self.saddle_mean / bottom if bottom else math.nan

    def way(self, i: int, j: int) -> tuple[int, ...]:
        """The minima on the tree's way from i to j, both included; empty if nothing joins them.

        Raises:
            SettingError: there is no minimum of this number.
        """
        for number in (i, j):
            if not 0 <= number < len(self.names):
                raise SettingError(f"the minima have numbers from 0 to {len(self.names) - 1}, got {number}")
        graph = _graph(len(self.names), self.tree_edges)
        return tuple(nx.shortest_path(graph, i, j)) if nx.has_path(graph, i, j) else ()

    def path(self, i: int, j: int) -> tuple[Connection, ...]:
        """The paths along the tree from minimum i to minimum j, each in this direction.

        Returns:
            One connection an edge; none if i is j, or nothing joins them.

        Raises:
            SettingError: the tree was read from a record, which holds no paths.
        """
        found: Sequence[Connection] = self.connections  # type: ignore[attr-defined]  # set as it is made
        if len(found) != len(self.edges):
            raise SettingError(
                "this tree was read from a record, which holds no paths: their controls are in the run's "
                "folder paths/, one folder an edge, for load_controls"
            )
        known = {edge.pair: connection for edge, connection in zip(self.edges, found, strict=True)}
        steps = itertools.pairwise(self.way(i, j))
        return tuple(known[a, b] if a < b else _turned(known[b, a]) for a, b in steps)


def grow(
    losses: Tensor, distances: Tensor, test: Callable[[Sequence[Trial]], Sequence[Edge]], most: int | None
) -> tuple[tuple[Edge, ...], Ending]:
    """Test the star, then attack, until no pair is left that can lower the tree, or the budget is used.

    Args:
        losses: of the minima, shape (minima,).
        distances: between them, shape (minima, minima).
        test: connects pairs that do not depend on one another.
        most: how many edges at most.
    """
    count, best = len(losses), int(losses.argmin())
    star = [Trial(min(best, other), max(best, other)) for other in range(count) if other != best]
    edges = list(test(star))
    budget = math.inf if most is None else most
    while (trial := next_trial(losses, edges, distances)) is not None:
        if len(edges) >= budget:
            return tuple(edges), Ending.BUDGET_USED
        edges += test([trial])
    all_tested = len(edges) == count * (count - 1) // 2
    return tuple(edges), Ending.ALL_TESTED if all_tested else Ending.NONE_CAN_LOWER


def next_trial(losses: Tensor, edges: Sequence[Edge], distances: Tensor) -> Trial | None:
    """The pair that is to be tested next; None if none is left that can lower the tree.

    Parts that nothing joins come first, as an edge of infinite height would; then the tree's edges from the
    highest down. Of the untested pairs across the cut the one of the smallest distance is taken. A pair with
    an end that is as high as the attacked edge is left out: no path between the two can be lower.
    """
    count, tested = len(losses), {edge.pair for edge in edges}
    spanning = [edges[position] for position in spanning_tree(count, edges)]
    cuts: list[tuple[tuple[int, ...], float, list[tuple[int, int]]]] = []
    parts = _parts(count, spanning)
    crossing = [pair for one, two in itertools.combinations(parts, 2) for pair in _across(one, two)]
    cuts.append(((), math.inf, crossing))
    for edge in reversed(spanning):
        rest = _parts(count, [other for other in spanning if other is not edge])
        sides = [part for part in rest if edge.first in part or edge.second in part]
        cuts.append((edge.pair, edge.height, _across(*sides)))
    for attacks, height, pairs in cuts:
        left = [pair for pair in pairs if pair not in tested and float(losses[list(pair)].max()) < height]
        if left:
            first, second = min(left, key=lambda pair: (float(distances[pair]), pair))
            return Trial(first, second, attacks)
    return None


def spanning_tree(count: int, edges: Sequence[Edge]) -> tuple[int, ...]:
    """Positions of the edges of the minimum spanning tree (or forest), the lowest first."""
    graph = _graph(count)
    for position, edge in enumerate(edges):
        if edge.joins:
            graph.add_edge(*edge.pair, height=edge.height, position=position)
    found = nx.minimum_spanning_edges(graph, algorithm="kruskal", weight="height", data=True)
    positions = [int(fields["position"]) for _, _, fields in found]
    return tuple(sorted(positions, key=lambda position: (edges[position].height, position)))


def tree_of(
    names: Sequence[str],
    split: str,
    losses: Tensor,
    distances: Tensor,
    edges: Sequence[Edge],
    ending: Ending,
    connections: Sequence[Connection] = (),
) -> MinimaTree:
    """The spanning tree of tested pairs, with the ultrametric heights that follow from it."""
    spanning = spanning_tree(len(names), edges)
    heights = torch.full((len(names), len(names)), math.inf, dtype=torch.float64)
    heights.diagonal().copy_(losses)
    parts = {number: [number] for number in range(len(names))}
    for position in spanning:
        edge = edges[position]
        one, two = parts[edge.first], parts[edge.second]
        for i, j in itertools.product(one, two):
            heights[i, j] = heights[j, i] = edge.height
        merged = one + two
        parts |= dict.fromkeys(merged, merged)
    return MinimaTree(
        tuple(names), split, losses, distances, tuple(edges), spanning, heights, ending, connections
    )


def _graph(count: int, edges: Sequence[Edge] = ()) -> nx.Graph[int]:
    """The minima with these edges."""
    graph: nx.Graph[int] = nx.Graph()
    graph.add_nodes_from(range(count))
    graph.add_edges_from(edge.pair for edge in edges)
    return graph


def _parts(count: int, edges: Sequence[Edge]) -> list[set[int]]:
    """The parts that these edges join, in the order of their first members."""
    return sorted(nx.connected_components(_graph(count, edges)), key=min)


def _across(one: set[int], two: set[int]) -> list[tuple[int, int]]:
    """Every pair with a member of each."""
    return sorted((min(i, j), max(i, j)) for i, j in itertools.product(one, two))


def _turned(connection: Connection) -> Connection:
    """The same path from its end to its beginning."""
    controls = tuple(reversed(connection.path.controls))
    path: AbstractPath = (
        Segment(*controls) if isinstance(connection.path, Segment) else type(connection.path)(controls)
    )
    saddle = connection.saddle and replace(connection.saddle, t=1 - connection.saddle.t)
    return replace(connection, path=path, saddle=saddle)
