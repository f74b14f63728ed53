"""One path, and one matching, measured: the pieces that a pair's story is made of."""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import torch

from isthmus.barriers import Barrier, Profile, barrier, profile
from isthmus.experiments.records import AxisRow, End, Fit, Matching, PathStudy
from isthmus.fanout import Fanout
from isthmus.io.checkpoints import Checkpoint
from isthmus.landscape import Landscape
from isthmus.landscape.abstract import SPLITS
from isthmus.match import matched_axes
from isthmus.path import AbstractPath
from isthmus.progress import Progress, Titled
from isthmus.scores import scores
from isthmus.symmetry import Alignment, Symmetry
from isthmus.weights import Weights

_MEASURES: tuple[tuple[Literal["loss", "error"], Literal["mean", "chord"]], ...] = (
    ("loss", "mean"), ("loss", "chord"), ("error", "mean"), ("error", "chord"),
)  # fmt: skip


def study_path(
    name: str,
    path: AbstractPath,
    landscape: Landscape,
    aligned: bool = False,
    points: int = 25,
    fit: Fit | None = None,
    seed: int = 0,
    fanout: Fanout | None = None,
    progress: Progress | None = None,
) -> PathStudy:
    """Profile a path on both splits and measure every barrier."""
    profiles = tuple(
        profile(path, landscape, points, split, fanout=fanout, progress=progress) for split in SPLITS
    )
    barriers = barriers_of(profiles, seed)
    return PathStudy(name, path.kind, aligned, profiles, barriers, path.length, path.endpoint_distance, fit)


def provenance_of(
    identity: Mapping[str, object], command: str, apart: Collection[str] = ()
) -> dict[str, str]:
    """What is needed to repeat a study: the command, the machine's part, and what the run is named by.

    Args:
        identity: of the run; what is None in it is left out.
        command: as it was given.
        apart: names in the identity that the study tells elsewhere.
    """
    own = {"command": command, "python": platform.python_version(), "threads": torch.get_num_threads()}
    told = (own | dict(identity)).items()
    return {name: str(value) for name, value in told if value is not None and name not in apart}


def end_record(name: str, given: Checkpoint, as_saved: Landscape, progress: Progress) -> End:
    """One of the given networks, scored by a landscape that keeps its batch-norm statistics."""
    found = scores(given.weights, as_saved, Titled(progress, name))
    return End(name, str(given.path), given.sha256, given.unwrapped, found)


def barriers_of(profiles: Sequence[Profile], seed: int = 0) -> tuple[Barrier, ...]:
    """Every barrier of some profiles: of loss and error, above mean and chord."""
    return tuple(barrier(found, above, of=of, seed=seed) for found in profiles for of, above in _MEASURES)


def matching_record(
    a: Weights, b: Weights, symmetry: Symmetry, alignment: Alignment, method: str = "weight"
) -> Matching:
    """What a matching did, axis by axis."""
    image = alignment.apply(b)
    return Matching(
        method=method,
        outcome=alignment.outcome.value,
        objective=a.dot(image),
        objective_before=a.dot(b),
        distance=a.distance(image),
        distance_before=a.distance(b),
        log2_order=symmetry.log2_order,
        coverage=symmetry.coverage,
        verified=_verified(symmetry),
        axes=tuple(
            AxisRow(
                axis.name,
                axis.size,
                axis.free,
                axis.places,
                axis.moved / axis.size,
                axis.before,
                axis.after,
                axis.most,
            )
            for axis in matched_axes(a, b, alignment)
        ),
        pinned=tuple((f"{name}[{dim}]", reason) for (name, dim), reason in symmetry.pinned.items()),
    )


def _verified(symmetry: Symmetry) -> str:
    """What the numerical check of a symmetry found, in words."""
    found = symmetry.verification
    if found is None:
        return "not verified"
    changed = sum(control.error > found.tolerance for control in found.controls)
    told = (
        f"with all axes moved at random the outputs change by {found.error:.1e} relative "
        f"(allowed {found.tolerance:.0e}); with one parameter left out they change in "
        f"{changed} of {len(found.controls)} controls"
    )
    return told + (f"; had to be pinned: {', '.join(found.failed)}" if found.failed else "")
