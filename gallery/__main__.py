"""Run the gallery: `python -m gallery [matching|paths] [--only NAME …] [--no-page]`."""

from __future__ import annotations

import argparse

from gallery import matching, paths

_CHAPTERS = {"matching": matching.run, "paths": paths.run}


def main() -> None:
    """Compute what is not there yet, and write the pages."""
    parser = argparse.ArgumentParser(prog="python -m gallery", description=__doc__)
    parser.add_argument("chapter", nargs="?", choices=sorted(_CHAPTERS), help="one page; all by default")
    parser.add_argument("--only", nargs="*", default=None, help="entries to compute; all by default")
    parser.add_argument("--no-page", action="store_true", help="compute only")
    given = parser.parse_args()
    for name, run in _CHAPTERS.items():
        if given.chapter in (None, name):
            run(given.only, page=not given.no_page)


if __name__ == "__main__":
    main()
