"""Merging: one network out of several, by transport of its units, and the repair of merged networks."""

from isthmus.merge.fusion import fuse, transport_map
from isthmus.merge.prune import prune_by_fusion
from isthmus.merge.renormalise import Repair, measure_repair, repair_activations, reset_batchnorm
from isthmus.merge.repaired import RepairedLine, repaired_line
from isthmus.merge.softmap import SoftMap

__all__ = [
    "Repair",
    "RepairedLine",
    "SoftMap",
    "fuse",
    "measure_repair",
    "prune_by_fusion",
    "repair_activations",
    "repaired_line",
    "reset_batchnorm",
    "transport_map",
]
