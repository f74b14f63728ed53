"""The plane through any three models, drawn from their checkpoints: nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from isthmus.connect.abstract import load_controls
from isthmus.errors import CheckpointError, SettingError
from isthmus.experiments.measuring import end_record, provenance_of
from isthmus.experiments.records import End
from isthmus.fanout import Fanout, Serial
from isthmus.identity import described, digest_of
from isthmus.io.checkpoints import Checkpoint, read_checkpoint
from isthmus.io.runs import Run
from isthmus.landscape import Landscape, Task
from isthmus.path import AbstractPath, Plane
from isthmus.progress import Progress, Silent
from isthmus.repair.batchnorm import policy_named
from isthmus.surfaces import Quantity, Surface, scan_splits

SPLITS_SHOWN = ("test", "train")
"""Held-out data first, as everywhere on a page."""


@dataclass(frozen=True)
class PlaneSettings:
    """How a plane is drawn.

    Attributes:
        of: "loss" or "error": what is shown first, and what a precision is about.
        resolution: nodes along the longer side.
        margin: around the models, as a share of the extent.
        precision: None evaluates every node; else see `scan_plane`.
        examples: of each split at every node; None is all. The models' own scores always use all.
        batchnorm: policy over the plane.
        recalibration: training examples that batch-norm statistics are measured on at every node. With batch
            norm a node costs these forward passes besides those of its examples.
        device: where to compute.
    """

    of: Quantity = "loss"
    resolution: int = 21
    margin: float = 0.2
    precision: float | None = None
    examples: int | None = 1000
    batchnorm: str = "recalibrate"
    recalibration: int = 1000
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.of not in ("loss", "error"):
            raise SettingError(f"expected --of loss or --of error, got {self.of!r}")
        policy_named(self.batchnorm)
        for name in ("examples", "recalibration"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingError(f"{name} must be at least 1, got {value}")
        if self.resolution < 3:
            raise SettingError(f"a plane needs at least 3 nodes a side, got {self.resolution}")
        if not 0 <= self.margin < float("inf"):
            raise SettingError(
                f"the margin is a share of the extent and must be 0 or more, got {self.margin}"
            )
        if self.precision is not None and not 0 < self.precision < 1:
            raise SettingError(
                f"the precision is a share of the colour scale between 0 and 1, got {self.precision}"
            )


@dataclass(frozen=True, eq=False)
class PlaneStudy:
    """Three models and the plane through them.

    Attributes:
        task: the task's name.
        note: what there is to know about its data.
        models: the given models as saved: the three that span the plane, then the further ones.
        surfaces: the plane on held-out data and on train.
        of: the quantity shown first.
        provenance: versions, settings and the command.
    """

    task: str
    note: str
    models: tuple[End, ...]
    surfaces: tuple[Surface, ...]
    of: Quantity
    provenance: dict[str, str]

    def surface(self, split: str = "test") -> Surface:
        """The surface on this split."""
        return next(surface for surface in self.surfaces if surface.split == split)


def study_plane(
    task: Task,
    models: Mapping[str, Checkpoint],
    settings: PlaneSettings | None = None,
    *,
    paths: Mapping[str, AbstractPath] | None = None,
    run: Run | None = None,
    command: str = "",
    progress: Progress | None = None,
    fanout: Fanout | None = None,
) -> PlaneStudy:
    """Score the models, and scan the plane through the first three on both splits.

    Args:
        task: model, data and loss.
        models: by name, in the task's layout: three that span the plane, and any more that are projected.
        settings: how it is drawn.
        paths: drawn over it by name, projected where they leave the plane.
        run: keeps every result and resumes; nothing is kept without it.
        command: told in the provenance.
        progress: shows bars.
        fanout: spreads the nodes.

    Returns:
        The record that the report is made from.

    Raises:
        SettingError: fewer than three models, three on one line, or a setting outside its range.
    """
    settings = settings or PlaneSettings()
    plane = plane_through(models)  # before anything is written
    if run is None:
        with TemporaryDirectory(prefix="isthmus-") as folder:
            passing = Run.open(Path(folder), "plane", {})
            return _studied(task, models, settings, plane, paths or {}, passing, command, progress, fanout)
    return _studied(task, models, settings, plane, paths or {}, run, command, progress, fanout)


def plane_through(models: Mapping[str, Checkpoint]) -> Plane:
    """The plane through the first three of these models.

    Raises:
        SettingError: fewer than three, or three on one line: says which.
    """
    if len(models) < 3:
        raise SettingError(f"a plane needs three models, got {len(models)}; add further checkpoints")
    three = list(models.items())[:3]
    try:
        return Plane(*(each.weights for _, each in three))
    except SettingError as error:
        named = ", ".join(f"{name} = {each.path}" for name, each in three)
        raise SettingError(f"{error} ({named})") from error


def read_path(folder: Path, task: Task) -> AbstractPath:
    """A fitted path from the folder of its controls, in the layout of the task's network.

    Raises:
        CheckpointError: the folder holds no controls, or its files do not say what kind of path they make.
    """
    first = folder / "0.safetensors"
    if not first.is_file():
        raise CheckpointError(
            f"{folder} holds no path: expected its controls 0.safetensors, 1.safetensors, …, as in the "
            "folder curve/ of a run"
        )
    kind = read_checkpoint(first, like=task.network).metadata.get("kind", "")
    if not kind:
        raise CheckpointError(
            f"{first} does not say what kind of path it belongs to; write the path with save_controls"
        )
    path = load_controls(folder, kind)
    return type(path)(tuple(task.weights(control) for control in path.controls))


def plane_identity(
    task: Task, models: Mapping[str, Checkpoint], settings: PlaneSettings, paths: Mapping[str, AbstractPath]
) -> dict[str, object]:
    """All that determines the results of `study_plane`: what a run of it is named by."""
    return {
        "task": task.name,
        **{name: digest_of(part) for name, part in task.identity.items()},
        "models": {name: each.sha256 for name, each in models.items()},
        "paths": {
            name: digest_of(path.kind, [described(control.vector) for control in path.controls])
            for name, path in paths.items()
        },
        "isthmus": version("isthmus"),
        "torch": torch.__version__,
        **asdict(settings),
    }


def _studied(
    task: Task,
    models: Mapping[str, Checkpoint],
    settings: PlaneSettings,
    plane: Plane,
    paths: Mapping[str, AbstractPath],
    run: Run,
    command: str,
    progress: Progress | None,
    fanout: Fanout | None,
) -> PlaneStudy:
    shown, spread = progress or Silent(), fanout or Serial()
    ends = tuple(_end(task, name, given, settings, run, shown) for name, given in models.items())
    surfaces = _scanned(task, models, settings, plane, paths, run, shown, spread)
    versions = {"isthmus": version("isthmus"), "torch": torch.__version__, "task": task.name}
    provenance = provenance_of(versions | asdict(settings), command)
    return PlaneStudy(task.name, task.note, ends, surfaces, settings.of, provenance)


def _end(
    task: Task, name: str, given: Checkpoint, settings: PlaneSettings, run: Run, progress: Progress
) -> End:
    """A model's scores as its owner saved it."""
    landscape = Landscape(task, settings.device, "keep")

    return run.record(f"model-{name.lower()}", End, lambda: end_record(name, given, landscape, progress))


@dataclass(frozen=True, eq=False)
class Planes:
    """The same plane on several splits, as one record: they are scanned together."""

    surfaces: tuple[Surface, ...]


def _scanned(
    task: Task,
    models: Mapping[str, Checkpoint],
    settings: PlaneSettings,
    plane: Plane,
    paths: Mapping[str, AbstractPath],
    run: Run,
    progress: Progress,
    fanout: Fanout,
) -> tuple[Surface, ...]:
    names: Sequence[str] = list(models)
    store = run.store("plane")

    def scanned() -> Planes:
        s = settings
        landscape = Landscape(task, s.device, s.batchnorm, s.recalibration, limit=s.examples)
        further = {name: models[name].weights for name in names[3:]}
        found = scan_splits(
            plane, landscape, names=(names[0], names[1], names[2]), paths=paths, models=further,
            resolution=s.resolution, margin=s.margin, precision=s.precision, of=s.of, splits=SPLITS_SHOWN,
            store=store, fanout=fanout, progress=progress,
        )  # fmt: skip
        return Planes(found)

    planes = run.record("plane", Planes, scanned)
    store.clear()
    return planes.surfaces
