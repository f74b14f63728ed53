"""Peak memory of a profile: one point and one chunk, whatever the number of points.

Run as a script, it measures itself in a fresh process and prints bytes.
"""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

_WIDTH = 2400
_PARAMETERS = 64 * _WIDTH + 2 * _WIDTH * _WIDTH + 3 * _WIDTH + 10 * _WIDTH + 10


def peak_beyond_inputs(points: int) -> tuple[float, int]:
    """Peak resident memory of a profile of this many points beyond the two ends, in units of 4 P bytes."""
    found = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", str(points)], check=True, capture_output=True, text=True
    )
    return int(found.stdout) / (4 * _PARAMETERS), _PARAMETERS


def _measure(points: int) -> int:
    import torch
    from torch import nn

    from isthmus import Landscape, Segment, Task, Weights, profile

    torch.set_num_threads(1)

    def build() -> nn.Module:
        sizes = (64, _WIDTH, _WIDTH, _WIDTH, 10)
        layers = [part for one, two in pairwise(sizes) for part in (nn.Linear(one, two), nn.ReLU())]
        return nn.Sequential(*layers[:-1])

    data = (torch.randn(64, 64), torch.randint(10, (64,)))
    task = Task(model=build, train=data, test=data)
    land = Landscape(task, batch=64)
    a, b = (Weights.from_module(task.build(seed)) for seed in (1, 2))
    land.evaluate([a])
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to the present size
    before = _kilobytes("VmRSS")
    profile(Segment(a, b), land, points, refine=0)
    return (_kilobytes("VmHWM") - before) * 1024


def _kilobytes(field: str) -> int:
    """A size of this process as Linux tells it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


if __name__ == "__main__":
    print(_measure(int(sys.argv[1])))
