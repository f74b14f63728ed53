"""How a region of low loss is grown and measured, and what a run of it is named by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version

import torch

from isthmus.errors import SettingError
from isthmus.experiments.simplexrecords import RegionKind
from isthmus.identity import digest_of
from isthmus.io.checkpoints import Checkpoint
from isthmus.landscape import Task
from isthmus.repair.batchnorm import policy_named

VERTICES, CONNECTORS = 4, 2
"""How many there are by default."""


@dataclass(frozen=True)
class RegionSettings:
    """How a region of low loss is grown and measured.

    Attributes:
        vertices: of the simplex around a network; 4 by default. Not for a complex.
        connectors: that the simplexes of a complex share; 2 by default. Only for a complex.
        separate: whether several networks get a simplex each (ESPRO) instead of a complex.
        weight: λ of the log-volume; the default of `fit_simplex`, as for the four that follow.
        samples: S, points inside a step.
        epochs: passes over the training data for each new vertex.
        steps: gradient steps for each new vertex, instead of epochs.
        rate: what each vertex begins with.
        inside: points drawn inside each stage, whose loss and error are measured.
        members: points drawn inside for the ensemble; 0 makes none.
        points: positions of the profiles of lines and routes.
        plane: nodes along the longer side of the planes; 0 draws none.
        plane_examples: held-out examples a node, and as many training examples for its batch norm.
        examples: examples of each split that everything but the given networks is measured on (None: all).
        tolerance: the error above the given networks' up to which a region counts as low.
        batchnorm: policy inside.
        recalibration: training examples that batch-norm statistics are measured on.
        seed: of everything random here.
        device: where to compute.
    """

    vertices: int | None = None
    connectors: int | None = None
    separate: bool = False
    weight: float | None = None
    samples: int | None = None
    epochs: float | None = None
    steps: int | None = None
    rate: float | None = None
    inside: int = 50
    members: int = 25
    points: int = 25
    plane: int = 21
    plane_examples: int = 300
    examples: int | None = 2000
    tolerance: float = 0.005
    batchnorm: str = "recalibrate"
    recalibration: int = 2048
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        policy_named(self.batchnorm)
        least = {
            "vertices": 2, "connectors": 1, "samples": 1, "steps": 1, "inside": 2, "members": 0, "points": 3,
            "plane_examples": 1, "recalibration": 1, "examples": 1,
        }  # fmt: skip
        for name, fewest in least.items():
            value = getattr(self, name)
            if value is not None and value < fewest:
                raise SettingError(f"{name.replace('_', ' ')} must be at least {fewest}, got {value}")
        if self.weight is not None and not 0 <= self.weight < math.inf:
            raise SettingError(f"the weight of the log-volume must be 0 or more, got {self.weight}")
        for name in ("epochs", "rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise SettingError(f"{name} must be a number above 0, got {value}")
        if self.epochs is not None and self.steps is not None:
            raise SettingError(
                f"give epochs or steps of a vertex, not both; got {self.epochs} and {self.steps}"
            )
        if self.plane and self.plane < 3:
            raise SettingError(f"a plane needs at least 3 nodes a side (or 0 for none), got {self.plane}")
        if not 0 < self.tolerance < 1:
            raise SettingError(f"the tolerance is a share of examples between 0 and 1, got {self.tolerance}")

    def kind(self, networks: int) -> RegionKind:
        """What is grown around so many networks.

        Raises:
            SettingError: none is given, or a number of vertices or connectors that has no place there.
        """
        if networks < 1:
            raise SettingError("expected at least one checkpoint to grow a region from, got none")
        kind: RegionKind = "simplexes" if self.separate else "complex" if networks > 1 else "simplex"
        if self.vertices is not None and kind == "complex":
            raise SettingError(
                "the number of vertices is for a simplex around one checkpoint; several are joined by "
                "connectors (--connectors), or get a simplex each (--separate)"
            )
        if self.connectors is not None and kind != "complex":
            raise SettingError("connectors join several checkpoints; the simplex around one has --vertices")
        return kind


def region_identity(
    task: Task, networks: Sequence[Checkpoint], settings: RegionSettings
) -> dict[str, object]:
    """All that determines the results of `study_region`: what a run of it is named by."""
    return {
        "task": task.name,
        **{name: digest_of(part) for name, part in task.identity.items()},
        "networks": ", ".join(each.sha256 for each in networks),
        "isthmus": version("isthmus"),
        "torch": torch.__version__,
        **asdict(settings),
    }
