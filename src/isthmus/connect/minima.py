"""Many minima connected to a tree of low passes.

Source: Draxler et al. 2018, arXiv 1803.00885, section 3.3.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from isthmus.connect.abstract import AbstractConnector, Connection, Outcome, Saddle, find_saddle
from isthmus.connect.kinds import connector_named
from isthmus.connect.spanning import Edge, MinimaTree, Trial, grow, tree_of
from isthmus.errors import LayoutError, SettingError
from isthmus.fanout import Fanout, Serial
from isthmus.io.state import NoStore, Store
from isthmus.landscape import AbstractLandscape
from isthmus.progress import Progress, Silent, Titled
from isthmus.weights import Weights

SADDLE_POINTS = 61
"""Even positions of a path that are evaluated where its connector has not found the saddle itself."""


def minima_tree(
    points: Sequence[Weights],
    landscape: AbstractLandscape,
    *,
    connector: AbstractConnector | None = None,
    most: int | None = None,
    names: Sequence[str] | None = None,
    seed: int = 0,
    store: Store | None = None,
    progress: Progress | None = None,
    fanout: Fanout | None = None,
) -> MinimaTree:
    """Connect many minima to a tree of low passes, testing few pairs.

    The lowest minimum is connected to every other. Then the highest edge of the minimum spanning tree that
    still can be replaced is attacked by an untested pair on both sides of it: the pair of the smallest
    distance, and of several equal ones the first. A pair of which one end is as high as the edge is not
    tested, for no path between the two is lower.

    Args:
        points: the minima: two or more different weights of one layout.
        landscape: gives losses and gradients; saddles are those of its training split.
        connector: joins a pair; the elastic band by default.
        most: how many pairs to test at most, those of the star included; by default until none
            is left that can lower the tree.
        names: of the minima; their numbers by default.
        seed: of the default connector.
        store: where every edge keeps a state of its own.
        progress: shows the fits, one after the other.
        fanout: spreads the star's edges, which do not depend on one another.

    Returns:
        The tree, with all paths in memory.

    Raises:
        SettingError: fewer than two minima, two that are the same, a loss that is not finite, names that do
            not fit, or fewer edges than the star has.
        LayoutError: minima of different architectures.

    Limits: an edge whose fit diverged is kept out of the tree and stays among `edges`.

    Cost: one fit a tested pair: at least minima − 1, at most minima (minima − 1) / 2.

    Source: Draxler et al. 2018, arXiv 1803.00885, section 3.3. There the pair of the lowest losses attacks.
    """
    titles = named(points, names)
    distances = straight_distances(points, titles)
    require_edges(len(points), most)
    method = connector or connector_named("neb", seed=seed)
    spread, shown = fanout or Serial(), progress or Silent()
    measured = landscape.evaluate(points, "train", spread, shown)
    losses = require_finite(measured.mean_loss, titles)
    found: list[Connection] = []

    def test(trials: Sequence[Trial]) -> list[Edge]:
        def join(trial: Trial) -> tuple[Edge, Connection]:
            ends = (points[trial.first], points[trial.second])
            title = f"{titles[trial.first]} to {titles[trial.second]}"
            kept = (store or NoStore()).part(f"edge-{trial.first}-{trial.second}")
            connection = method.connect(ends, landscape, store=kept, progress=Titled(shown, title))
            inner = spread if len(trials) == 1 else None
            saddle = saddle_of(connection, landscape, measured.examples, inner)
            return edge_of(trial, connection, saddle, losses), connection

        done = spread.map(join, trials)
        found.extend(connection for _, connection in done)
        return [edge for edge, _ in done]

    edges, ending = grow(losses, distances, test, most)
    return tree_of(titles, "train", losses, distances, edges, ending, found)


def edge_of(trial: Trial, connection: Connection, saddle: Saddle | None, losses: Tensor) -> Edge:
    """The record of a tested pair; a saddle that is not finite joins nothing."""
    ends = max(float(losses[trial.first]), float(losses[trial.second]))
    height = math.inf if saddle is None or not math.isfinite(saddle.loss) else max(saddle.loss, ends)
    return Edge(
        trial.first, trial.second, trial.attacks, height, saddle, connection.outcome, connection.steps,
        connection.length, connection.endpoint_distance,
    )  # fmt: skip


def saddle_of(
    connection: Connection, landscape: AbstractLandscape, examples: int, fanout: Fanout | None = None
) -> Saddle | None:
    """The highest point of a path on the training split; None if the fit diverged.

    The connector's own saddle is taken where it was measured on the same examples as the minima, so that
    the two can be compared.
    """
    if connection.outcome is Outcome.DIVERGED:
        return None
    own = connection.saddle
    if own is not None and (own.split, own.examples) == ("train", examples):
        return own
    return find_saddle(connection.path, landscape, SADDLE_POINTS, "train", fanout)


def named(points: Sequence[Weights], names: Sequence[str] | None = None) -> tuple[str, ...]:
    """The minima's names, or their numbers.

    Raises:
        SettingError: fewer than two minima, or names that do not fit.
    """
    if len(points) < 2:
        raise SettingError(f"a tree needs at least 2 minima, got {len(points)}")
    titles = tuple(names) if names is not None else tuple(str(number) for number in range(len(points)))
    if len(titles) != len(points) or len(set(titles)) < len(titles):
        raise SettingError(
            f"expected {len(points)} different names, one for each minimum, got {', '.join(titles)}"
        )
    return titles


def straight_distances(points: Sequence[Weights], names: Sequence[str]) -> Tensor:
    """Distances between every two minima, shape (minima, minima), float64.

    Raises:
        LayoutError: they are of different architectures.
        SettingError: two are the same.
    """
    table = torch.zeros(len(points), len(points), dtype=torch.float64)
    for i, j in itertools.combinations(range(len(points)), 2):
        try:
            table[i, j] = table[j, i] = apart = points[i].distance(points[j])
        except LayoutError as error:
            raise LayoutError(f"the minima {names[i]} and {names[j]} cannot be connected: {error}") from error
        if apart == 0:
            raise SettingError(
                f"the minima {names[i]} and {names[j]} are the same weights; give each minimum once"
            )
    return table


def require_edges(count: int, most: int | None) -> None:
    """Refuse a budget that is too small for a tree."""
    if most is not None and most < count - 1:
        raise SettingError(
            f"a tree of {count} minima needs at least {count - 1} edges, those of the star; got a budget of "
            f"{most}"
        )


def require_finite(losses: Tensor, names: Sequence[str]) -> Tensor:
    """The losses of the minima, if all are finite."""
    for name, loss in zip(names, losses.tolist(), strict=True):
        if not math.isfinite(loss):
            raise SettingError(f"the training loss of the minimum {name} is {loss}; leave it out")
    return losses
