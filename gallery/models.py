"""The trained networks that the pages are about: trained once, kept in `runs/gallery`."""

from __future__ import annotations

from pathlib import Path

from isthmus.experiments.train import train
from isthmus.identity import digest_of
from isthmus.io.checkpoints import Checkpoint, read_checkpoint, save_weights
from isthmus.io.state import FileStore
from isthmus.landscape import Task
from isthmus.progress import Terminal

FOLDER = Path("runs/gallery")


def trained(name: str, task: Task, seed: int) -> Checkpoint:
    """The network of this name and seed; one that was trained on other data or another recipe is refused."""
    path = FOLDER / f"{name}-seed{seed}.safetensors"
    identity = digest_of(task.identity, seed)
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        store = FileStore(path.with_name(path.name + ".state"))
        weights = train(task, seed, store=store, progress=Terminal())
        save_weights(weights, path, {"task": task.name, "seed": str(seed), "training": identity})
        store.clear()
    found = read_checkpoint(path, like=task.network)
    if found.metadata.get("training") != identity:
        raise SystemExit(f"{path} was trained on other data or by another recipe: delete it and run again")
    return found
