"""Activation matching: peak memory whatever the number of examples, and time beside bare forward passes.

Run as a script with a number of examples, it measures itself in a fresh process and prints bytes.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

_HELD = 16_000
_WIDTH = 512


def peak_beyond_inputs(examples: int) -> int:
    """Peak resident bytes of a matching on so many examples, beyond the data and the two networks."""
    found = subprocess.run(
        [sys.executable, "-m", "benchmarks.activations", str(examples)],
        check=True,
        capture_output=True,
        text=True,
    )
    return int(found.stdout)


def time_ratio(rounds: int = 5) -> tuple[float, float, float]:
    """Seconds of the bare forward passes, seconds of the matching, and their ratio, medians of the rounds.

    ResNet-20, 1,000 images, two networks; tracing, assignments and moments are the matching's own.
    """
    import torch

    from isthmus import Landscape, Task, Weights, discover, match_activations
    from isthmus.tasks.models import ResNet

    torch.set_num_threads(1)
    data = (torch.randn(1000, 3, 32, 32), torch.randint(10, (1000,)))
    task = Task(model=lambda: ResNet(20), train=data, test=data)
    a, b = (Weights.from_module(task.build(seed)) for seed in (1, 2))
    land = Landscape(task, batch=250)
    symmetry = discover(task.traceable, task.example, verify=False)
    floors, ours = [], []
    for _ in range(rounds):
        begun = time.perf_counter()
        with torch.no_grad():
            for model in (a, b):
                with land.network.at(model) as module:
                    for batch in torch.split(data[0], 250):
                        module(batch)
        floors.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        match_activations(a, b, symmetry, land, examples=1000)
        ours.append(time.perf_counter() - begun)
    ratios = [mine / floor for mine, floor in zip(ours, floors, strict=True)]
    return median(floors), median(ours), median(ratios)


def lines(rounds: int = 5) -> list[str]:
    """What the page of results says of it."""
    few, many = peak_beyond_inputs(1000), peak_beyond_inputs(_HELD)
    floor, ours, ratio = time_ratio(rounds)
    return [
        f"- Activation matching, perceptron with three hidden layers of {_WIDTH}, batches of 250: peak "
        f"memory beyond data and networks {few / 2**20:.0f} MiB on 1,000 examples, {many / 2**20:.0f} MiB on "
        f"{_HELD:,}.",
        f"- Activation matching, ResNet-20, 1,000 images: {ours:.2f} s beside {floor:.2f} s for the bare "
        f"forward passes of both networks (ratio {ratio:.2f}, tracing included).",
    ]


def _measure(examples: int) -> int:
    import torch
    from torch import nn

    from isthmus import Landscape, Task, Weights, discover, match_activations
    from isthmus.tasks.models import MLP

    torch.set_num_threads(1)

    def build() -> nn.Module:
        return MLP((256, _WIDTH, _WIDTH, _WIDTH, 10))

    data = (torch.randn(_HELD, 256), torch.randint(10, (_HELD,)))
    task = Task(model=build, train=data, test=data)
    land = Landscape(task, batch=250)
    a, b = (Weights.from_module(task.build(seed)) for seed in (1, 2))
    symmetry = discover(task.traceable, task.example, verify=False)
    match_activations(a, b, symmetry, land, examples=500)
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to the present size
    before = _kilobytes("VmRSS")
    match_activations(a, b, symmetry, land, examples=examples)
    return (_kilobytes("VmHWM") - before) * 1024


def _kilobytes(field: str) -> int:
    """A size of this process as Linux tells it."""
    told = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in told if line.startswith(field)).split()[1])


if __name__ == "__main__":
    print(_measure(int(sys.argv[1])))
