"""`isthmus demo`: the whole story on data that come with the package."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from isthmus.cli.options import AsJson, Data, Device, Figures, Out, Quiet, Seed, TaskName
from isthmus.cli.session import bars, guarded, open_checkpoint, open_task
from isthmus.cli.story import show, slug, written


@guarded
def demo(
    task: TaskName = "digits-mlp",
    figures: Figures = False,
    data: Data = None,
    out: Out = None,
    device: Device = "cpu",
    seed: Seed = 0,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train two networks from different seeds and tell their whole story, on scikit-learn's digits.

    Takes a minute or so, needs no download, and writes a run folder with the report.
    """
    problem = open_task(task, data, device)
    from isthmus.experiments.pair import PairSettings
    from isthmus.experiments.train import train
    from isthmus.identity import digest_of
    from isthmus.io.checkpoints import save_weights
    from isthmus.io.runs import Run

    settings = PairSettings(seed=seed, device=device, plane=41, plane_examples=600)
    progress = bars(quiet, as_json)
    trained = {"a": 2 * seed + 1, "b": 2 * seed + 2}
    about = {
        "isthmus": version("isthmus"),
        "task": problem.name,
        **{name: digest_of(part) for name, part in problem.identity.items()},
        "seeds": trained,
        "settings": digest_of(vars(settings)),
    }
    run = Run.open(out or Path(f"isthmus-demo-{slug(problem.name)}"), "demo", about)
    try:
        for name, number in trained.items():
            store = run.store(f"train-{name}")
            if not run.path(f"{name}.safetensors").exists():
                weights = train(problem, number, device=device, store=store, progress=progress)
                save_weights(weights, run.path(f"{name}.safetensors"), {"seed": str(number)})
            store.clear()
        one, two = (open_checkpoint(run.path(f"{name}.safetensors"), problem) for name in trained)
        study = written(run, problem, one, two, settings, progress, figures)
    finally:
        run.close()
    show(study, run, quiet, as_json)
