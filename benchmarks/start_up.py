"""The time until `isthmus --help` answers, and whether it loads torch."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

_COMMAND = [str(Path(sys.executable).with_name("isthmus")), "--help"]


def seconds(rounds: int) -> tuple[float, float]:
    """Median and largest wall time of the command."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        subprocess.run(_COMMAND, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times), max(times)


def loads_torch() -> bool:
    """Whether torch is among the imported modules after the help was printed."""
    code = (
        "import sys; sys.argv = ['isthmus', '--help']\n"
        "from isthmus.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "sys.stderr.write(str('torch' in sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return found.stderr.strip() == "True"
