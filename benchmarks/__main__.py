"""Run every benchmark and write the figures to `benchmarks/results.md`: `make bench`."""

from __future__ import annotations

import platform
import sys
import time
from pathlib import Path

import torch

from benchmarks import activations, curve_step, matching, memory, profile_points, start_up
from benchmarks.side_by_side import Ratio

_ROUNDS = {"curve": 15, "profile": 9, "matching": 5, "help": 15}


def main() -> None:
    """Measure, print, and write."""
    torch.set_num_threads(1)
    begun = time.perf_counter()
    lines = [
        "# Benchmarks",
        "",
        f"`make bench`, one thread. {_processor()}, torch {torch.__version__}, "
        f"Python {platform.python_version()}.",
        "Both sides of a ratio run in turns in one process; the ratio is the median of the rounds', with its",
        "quartiles.",
        "",
        "| what | floor (ms) | isthmus (ms) | ratio | quartiles | rounds | at most |",
        "|---|---|---|---|---|---|---|",
    ]
    for found, limit in _ratios():
        lines.append(_row(found, limit))
        print(lines[-1], flush=True)
    rest = ["", *matching.table(matching.run(_ROUNDS["matching"])), "", *_rest()]
    rest += ["", f"Wall time of the whole: {time.perf_counter() - begun:.0f} s."]
    print("\n".join(rest))
    lines += rest
    (Path(__file__).parent / "results.md").write_text("\n".join(lines) + "\n")


def _ratios() -> list[tuple[Ratio, float]]:
    steps = [(r, 1.06 if "batch 128" in r.name else 1.10) for r in curve_step.run(_ROUNDS["curve"])]
    return steps + [(r, 1.10) for r in profile_points.run(_ROUNDS["profile"])]


def _rest() -> list[str]:
    middle, worst = start_up.seconds(_ROUNDS["help"])
    few, parameters = memory.peak_beyond_inputs(3)
    many, _ = memory.peak_beyond_inputs(40)
    return [
        f"- `isthmus --help`: median {middle:.2f} s, largest {worst:.2f} s (at most 0.3 s); "
        f"torch imported: {'yes' if start_up.loads_torch() else 'no'}.",
        f"- Peak memory of a profile beyond its two ends, model of P = {parameters:,} parameters: "
        f"{few:.2f} × 4 P bytes for 3 points, {many:.2f} × 4 P bytes for 40 points.",
        *activations.lines(),
    ]


def _row(found: Ratio, limit: float) -> str:
    return (
        f"| {found.name} | {found.floor * 1e3:.1f} | {found.ours * 1e3:.1f} | **{found.ratio:.3f}** | "
        f"{found.low:.3f} to {found.high:.3f} | {found.rounds} | {limit:.2f} |"
    )


def _processor() -> str:
    """The processor's name."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
