"""Regions of weight space: a simplex, and several that share vertices.

A position is given by its barycentric coordinates, one a vertex, which are the coefficients themselves:
θ(a) = Σ_k a_k w_k with Σ a_k = 1. Inside, none is negative.

Source: Benton, Maddox, Lotfi and Wilson 2021, arXiv 2102.13042, sections 3 and 4. The volume is that of
Cayley and Menger, from the Gram matrix of the edges at one vertex instead of the bordered matrix of squared
distances: det M = (−1)^(k+1) 2^k det G, and G loses fewer digits.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import ClassVar

import torch
from torch import Tensor

from isthmus.errors import SettingError
from isthmus.path.abstract import AbstractPath, PathPoints
from isthmus.path.chain import Chain
from isthmus.seeds import seeded
from isthmus.weights import Weights, combine

_SUM = 1e-6
"""How far the sum of a position's coordinates may be from one."""


class AbstractRegion(AbstractPath):
    """One simplex or several: their vertices are the controls, a position is one coefficient a vertex."""

    @property
    @abc.abstractmethod
    def simplexes(self) -> tuple[tuple[int, ...], ...]:
        """The vertices of each simplex, by their numbers."""

    def coefficients(self, t: Tensor) -> Tensor:
        """The coordinates themselves, shape (n, vertices).

        Raises:
            SettingError: another number of coordinates, or a sum that is not one.
        """
        vertices = len(self.controls)
        if t.dim() != 2 or t.shape[1] != vertices:
            raise SettingError(
                f"a position in a {self.kind} of {vertices} vertices has {vertices} barycentric coordinates "
                f"(shape (n, {vertices})), got the shape {list(t.shape)}; draw some with .sample(n)"
            )
        row = t.double()
        if len(row) and float((row.sum(dim=1) - 1).abs().max()) > _SUM:
            raise SettingError(
                f"the barycentric coordinates of a position in a {self.kind} must sum to 1, got "
                f"{float(row.sum(dim=1)[(row.sum(dim=1) - 1).abs().argmax()]):g}"
            )
        return row

    def sample(self, count: int, seed: int = 0) -> PathPoints:
        """Points inside, evenly distributed over each simplex, each computed when it is asked for.

        Args:
            count: how many; they go round the simplexes, so that each has as many as another.
            seed: gives the points.

        Source: Benton et al. 2021, section 3: coordinates ~ Dirichlet(1), as normalised exponentials.
        """
        if count < 1:
            raise SettingError(f"expected at least 1 point to draw, got {count}")
        return self.at(self.draw(count, seeded(seed, "inside")))

    def draw(self, points: int, generator: torch.Generator, first: int = 0) -> Tensor:
        """Coordinates of points inside, shape (points, vertices), beginning with this simplex's turn."""
        return drawn_inside(self.simplexes, len(self.controls), points, generator, first)

    @cached_property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """Pairs of vertices that some simplex holds, each once."""
        every = {pair for simplex in self.simplexes for pair in combinations(sorted(simplex), 2)}
        return tuple(sorted(every))

    @cached_property
    def edge_lengths(self) -> Tensor:
        """The Euclidean length of every edge, shape (edges,), float64."""
        squares = [float(squared_distance(self.gram, i, j)) for i, j in self.edges]
        return torch.tensor(squares, dtype=torch.float64).clamp_min(0).sqrt()

    @cached_property
    def length(self) -> float:
        """The total length of all edges; an edge that several simplexes share counts once."""
        return float(self.edge_lengths.sum())

    @cached_property
    def log_volumes(self) -> tuple[float, ...]:
        """The logarithm of each simplex's volume; −∞ where it has none. The unit is length^k."""
        return tuple(log_volume(at_vertex(self.gram, simplex)) for simplex in self.simplexes)

    @cached_property
    def log_volume(self) -> float:
        """The logarithm of the volume, every simplex counted: log Σ_i V_i."""
        return float(torch.tensor(self.log_volumes, dtype=torch.float64).logsumexp(0))

    @property
    def volume(self) -> float:
        """The volume, every simplex counted; 0 or infinity where a float cannot hold it."""
        return float(torch.tensor(self.log_volume, dtype=torch.float64).exp())


class Simplex(AbstractRegion):
    """The convex hull of k + 1 weights: a segment, a triangle, a tetrahedron, and so on.

    Args:
        controls: its vertices, two or more.

    Example:
        >>> import torch
        >>> from isthmus.weights import Weights
        >>> corners = torch.eye(4).double()   # a regular tetrahedron of edge √2: V = s³ / (6 √2)
        >>> tetrahedron = Simplex(tuple(Weights.from_state_dict({"w": row}) for row in corners))
        >>> round(tetrahedron.volume, 12), round(tetrahedron.normalised_volume, 12)
        (0.333333333333, 1.0)
        >>> tetrahedron(0.25, 0.25, 0.25, 0.25)["w"].tolist()
        [0.25, 0.25, 0.25, 0.25]

    Limits: two simplexes of different dimensions have volumes of different units; compare heights instead.
    """

    kind: ClassVar[str] = "simplex"

    @property
    def simplexes(self) -> tuple[tuple[int, ...], ...]:
        """All vertices."""
        return (tuple(range(len(self.controls))),)

    @cached_property
    def heights(self) -> Tensor:
        """The distance of each vertex from the plane of the others, shape (vertices,); 0 if it is flat."""
        if self.log_volume == -math.inf:
            return torch.zeros(len(self.controls), dtype=torch.float64)
        return volume_gradient(self.gram).diagonal().rsqrt()

    @cached_property
    def normalised_volume(self) -> float:
        """The volume over that of the regular simplex with the same root mean square edge, in [0, 1]."""
        dimension = len(self.controls) - 1
        edge = float(self.edge_lengths.square().mean().sqrt())
        if self.log_volume == -math.inf or not edge:
            return 0.0
        regular = (
            dimension * math.log(edge) + 0.5 * math.log(dimension + 1)
            - math.lgamma(dimension + 1) - 0.5 * dimension * math.log(2)
        )  # fmt: skip
        return math.exp(self.log_volume - regular)


@dataclass(frozen=True, eq=False, repr=False)
class SimplicialComplex(AbstractRegion):
    """Several simplexes over one set of vertices, which they may share.

    Attributes:
        controls: all vertices.
        members: the vertices of each simplex, by their numbers.

    Example:
        >>> import torch
        >>> from isthmus.weights import Weights
        >>> corners = torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
        >>> vertices = tuple(Weights.from_state_dict({"w": row}) for row in corners)
        >>> square = SimplicialComplex(vertices, ((0, 2, 3), (1, 2, 3)))   # two halves of the unit square
        >>> round(square.volume, 12), len(square.edges)
        (1.0, 5)
    """

    members: tuple[tuple[int, ...], ...] = ()
    kind: ClassVar[str] = "complex"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "members", tuple(tuple(int(k) for k in each) for each in self.members))
        if not self.members:
            raise SettingError("a complex needs at least one simplex: the numbers of its vertices")
        numbers = range(len(self.controls))
        for each in self.members:
            if len(each) < 2 or len(set(each)) < len(each) or any(k not in numbers for k in each):
                raise SettingError(
                    f"a simplex of a complex needs two or more different vertices of 0 to {numbers[-1]}, "
                    f"got {each}"
                )

    @property
    def simplexes(self) -> tuple[tuple[int, ...], ...]:
        """The members."""
        return self.members

    def face(self, index: int) -> Simplex:
        """One of the simplexes by itself."""
        return Simplex(tuple(self.controls[k] for k in self.members[index]))

    def route(self, first: int, last: int) -> Chain:
        """The path inside the complex from one vertex to another, by the middle of what they share.

        Args:
            first: the number of a vertex.
            last: of another, in a simplex that shares vertices with one of the first's.

        Raises:
            SettingError: no simplexes of the two share a vertex.
        """
        for one in self.members:
            for two in self.members:
                shared = [k for k in one if k in two and k not in (first, last)]
                if first in one and last in two and shared:
                    middle = combine([1 / len(shared)] * len(shared), tuple(self.controls[k] for k in shared))
                    return Chain((self.controls[first], middle, self.controls[last]))
        raise SettingError(f"no simplexes of the vertices {first} and {last} share a vertex to go by")


def drawn_inside(
    simplexes: Sequence[Sequence[int]],
    vertices: int,
    points: int,
    generator: torch.Generator,
    first: int = 0,
) -> Tensor:
    """Barycentric coordinates of points that go round some simplexes, even in each: Dirichlet(1).

    Args:
        simplexes: the vertices of each, by their numbers.
        vertices: how many there are in all.
        points: how many to draw.
        generator: gives them.
        first: the simplex whose turn it is.

    Returns:
        Shape (points, vertices), float64; zero at the vertices that a point's simplex has not.
    """
    turns = (torch.arange(points) + first) % len(simplexes)
    holds = torch.zeros(len(simplexes), vertices, dtype=torch.float64)
    for row, simplex in zip(holds, simplexes, strict=True):
        row[list(simplex)] = 1
    drawn = torch.empty(points, vertices, dtype=torch.float64)
    drawn = drawn.exponential_(generator=generator) * holds[turns]
    return drawn / drawn.sum(dim=1, keepdim=True)


def at_vertex(gram: Tensor, vertices: Sequence[int]) -> Tensor:
    """The Gram matrix of some points about the first of them, from one about any common origin.

    Args:
        gram: ⟨w_j − o, w_k − o⟩, shape (n, n).
        vertices: which points, and in which order.
    """
    index = torch.tensor(list(vertices))
    table = gram[index][:, index]
    return table - table[:1] - table[:, :1] + table[0, 0]


def log_volume(gram: Tensor) -> float:
    """The log-volume of a simplex from the Gram matrix of its vertices about its first one.

    V = √det G / k!, with G the k × k matrix of the edges at the first vertex. The edges are brought to length
    one before the determinant, so that neither scale nor dimension overflows.

    Args:
        gram: shape (k + 1, k + 1), its first row and column zero, float64.

    Returns:
        −∞ for a flat simplex.
    """
    edges = gram[1:, 1:]
    lengths = edges.diagonal().clamp_min(0).sqrt()
    if not bool((lengths > 0).all()):
        return -math.inf
    sign, logarithm = torch.linalg.slogdet(edges / torch.outer(lengths, lengths))
    if not sign > 0:
        return -math.inf
    return float(lengths.log().sum() + 0.5 * logarithm) - math.lgamma(len(gram))


def volume_gradient(gram: Tensor) -> Tensor:
    """The gradient of log V with respect to every vertex, as coefficients of the vertices.

    ∂ log V / ∂w_j = Σ_m C_jm w_m with C = Dᵀ G⁻¹ D, D = (−1 | I): for the edges E = D W,
    d ½ log det(E Eᵀ) = tr(G⁻¹ dE Eᵀ). It is the unit normal at vertex j over its height: C_jj = 1 / h_j².

    Args:
        gram: as for `log_volume`; of a simplex that is not flat.

    Returns:
        Shape (k + 1, k + 1), float64; rows and columns sum to zero.
    """
    edges = gram[1:, 1:]
    lengths = edges.diagonal().sqrt()
    inverse = torch.linalg.inv(edges / torch.outer(lengths, lengths)) / torch.outer(lengths, lengths)
    outer = torch.cat([-inverse.sum(dim=0, keepdim=True), inverse])
    return torch.cat([-outer.sum(dim=1, keepdim=True), outer], dim=1)


def squared_distance(gram: Tensor, one: int, two: int) -> Tensor:
    """‖w_one − w_two‖² from a Gram matrix."""
    return gram[one, one] + gram[two, two] - 2 * gram[one, two]


def region_of(
    vertices: tuple[Weights, ...], simplexes: tuple[tuple[int, ...], ...]
) -> Simplex | SimplicialComplex:
    """A simplex if there is one over all vertices, a complex otherwise."""
    if simplexes == (tuple(range(len(vertices))),):
        return Simplex(vertices)
    return SimplicialComplex(vertices, simplexes)
