"""Paths and surfaces in weight space: geometry only, no data."""

from isthmus.path.abstract import AbstractPath as AbstractPath
from isthmus.path.abstract import PathPoints as PathPoints
from isthmus.path.bezier import Bezier as Bezier
from isthmus.path.chain import Chain as Chain
from isthmus.path.plane import Plane as Plane
from isthmus.path.plane import spans_plane as spans_plane
from isthmus.path.segment import Segment as Segment
from isthmus.path.simplex import Simplex as Simplex
from isthmus.path.simplex import SimplicialComplex as SimplicialComplex
