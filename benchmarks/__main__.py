"""Run every benchmark, or the parts that are named, and write them to `benchmarks/results.md`.

`make bench`, or `python -m benchmarks [PART …]`: a part's section is replaced, the others stay as they were.
"""

from __future__ import annotations

import argparse
import platform
import re
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from benchmarks import (
    activations,
    band_step,
    curve_step,
    matching,
    memory,
    plane,
    precision,
    profile_points,
    simplex_step,
    start_up,
)
from benchmarks.side_by_side import Ratio

_RESULTS = Path(__file__).parent / "results.md"
_HEAD = """# Benchmarks

`make bench`, one thread; `python -m benchmarks PART …` measures single parts. Both sides of a ratio run in
turns in one process; the ratio is the median of the rounds', with its quartiles."""


def _curves() -> list[str]:
    return _ratios((r, 1.06 if "batch 128" in r.name else 1.10) for r in curve_step.run(15))


def _profiles() -> list[str]:
    return _ratios((r, 1.10) for r in profile_points.run(9))


def _bands() -> list[str]:
    return _ratios((r, 1.10) for r in band_step.run(5))


def _simplexes() -> list[str]:
    return _ratios((r, 1.10) for r in simplex_step.run(5))


def _planes() -> list[str]:
    return plane.lines(5)


def _precision() -> list[str]:
    return precision.table(precision.run())


def _matching() -> list[str]:
    return matching.table(matching.run(5))


def _start_up() -> list[str]:
    middle, worst = start_up.seconds(15)
    return [
        f"- `isthmus --help`: median {middle:.2f} s, largest {worst:.2f} s (at most 0.3 s); "
        f"torch imported: {'yes' if start_up.loads_torch() else 'no'}."
    ]


def _memory() -> list[str]:
    few, parameters = memory.peak_beyond_inputs(3)
    many, _ = memory.peak_beyond_inputs(40)
    return [
        f"- Peak memory of a profile beyond its two ends, model of P = {parameters:,} parameters: "
        f"{few:.2f} × 4 P bytes for 3 points, {many:.2f} × 4 P bytes for 40 points."
    ]


PARTS: dict[str, tuple[str, Callable[[], list[str]]]] = {
    "curves": ("A step of a curve's fit over a plain SGD step", _curves),
    "bands": ("A step of an elastic band over as many plain SGD steps", _bands),
    "simplexes": ("A step of a simplex over as many plain SGD steps", _simplexes),
    "profiles": ("A profile over its bare forward passes", _profiles),
    "planes": ("A plane over its bare forward passes, and to a precision", _planes),
    "precision": ("A barrier to a precision", _precision),
    "matching": ("Weight matching", _matching),
    "activations": ("Activation matching", activations.lines),
    "start-up": ("Start-up", _start_up),
    "memory": ("Memory", _memory),
}


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    wanted = parser.parse_args().parts or list(PARTS)
    if unknown := [name for name in wanted if name not in PARTS]:
        parser.error(f"there is no part {unknown[0]}: expected {', '.join(PARTS)}")
    torch.set_num_threads(1)
    for name in wanted:
        title, measure = PARTS[name]
        begun = time.perf_counter()
        lines = measure()
        machine = f"{_processor()}, torch {torch.__version__}, Python {platform.python_version()}"
        told = f"*`python -m benchmarks {name}`, {time.perf_counter() - begun:.0f} s. {machine}.*"
        section = "\n".join([f"## {title}", "", *lines, "", told])
        print(section, flush=True)
        _write({**_sections(), title: section})


def _sections() -> dict[str, str]:
    """The sections that the file holds, by title."""
    text = _RESULTS.read_text(encoding="utf-8") if _RESULTS.exists() else ""
    parts = re.split(r"^(?=## )", text, flags=re.MULTILINE)[1:]
    return {part.partition("\n")[0].removeprefix("## "): part.strip() for part in parts}


def _write(sections: dict[str, str]) -> None:
    ordered = [sections[title] for title, _ in PARTS.values() if title in sections]
    _RESULTS.write_text("\n\n".join([_HEAD, *ordered]) + "\n", encoding="utf-8")


def _ratios(found: Iterable[tuple[Ratio, float]]) -> list[str]:
    """Ratios as a table, each row shown as soon as it is there."""
    lines = [
        "| what | floor (ms) | isthmus (ms) | ratio | quartiles | rounds | at most |",
        "|---|---|---|---|---|---|---|",
    ]
    for each, limit in found:
        lines.append(
            f"| {each.name} | {each.floor * 1e3:.1f} | {each.ours * 1e3:.1f} | **{each.ratio:.3f}** | "
            f"{each.low:.3f} to {each.high:.3f} | {each.rounds} | {limit:.2f} |"
        )
        print(lines[-1], file=sys.stderr, flush=True)
    return lines


def _processor() -> str:
    """The processor's name."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
