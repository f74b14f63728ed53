"""Barriers to a stated precision, at a fraction of the cost of a whole profile."""

from isthmus.precision.barrier import PreciseBarrier as PreciseBarrier
from isthmus.precision.barrier import PreciseBarriers as PreciseBarriers
from isthmus.precision.barrier import barrier_to as barrier_to
