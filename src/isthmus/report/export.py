"""Figures as files, for papers."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isthmus.atomic import write_bytes_atomic
from isthmus.errors import MissingDependencyError, SettingError

if TYPE_CHECKING:
    from isthmus.report.drawing import NamedFigure

FORMATS = ("png", "svg", "pdf", "webp", "jpg")
"""What a figure can be written as."""

_PIXELS_PER_POINT = 3
_RANDOM_NAME = re.compile(r'(?<=["# ])(topdefs-|defs-|clip|legend|trace|x?cb|g)([0-9a-f]{6})')
_NO_BROWSER = (
    "Writing figures as files needs Chrome or Chromium: install it (apt-get install chromium, or "
    "kaleido_get_chrome), or set BROWSER_PATH to its executable"
)
_BROWSERS = ("chromium", "google-chrome", "google-chrome-stable", "chromium-browser", "chrome", "msedge")


def save_figures(
    study: object, folder: str | os.PathLike[str], formats: Sequence[str] = ("png", "svg")
) -> tuple[Path, ...]:
    """Write every figure of a study as files: white background, no buttons, sizes that suit a paper.

    Args:
        study: a study of any kind.
        folder: where to; made if it is missing. Files there of the same names are replaced.
        formats: of `FORMATS`.

    Returns:
        The files, figure by figure.

    Raises:
        SettingError: an unknown format, or a record that is no study.
        MissingDependencyError: kaleido, or the browser it draws with, is not installed.

    Cost: one start of a headless browser (about two seconds) and about a third of a second a file.
    """
    from isthmus.report.studies import page_of  # the plotting library takes a while to import

    return save_named_figures(page_of(study).figures(), folder, formats)


def save_named_figures(
    figures: Sequence[NamedFigure], folder: str | os.PathLike[str], formats: Sequence[str] = ("png", "svg")
) -> tuple[Path, ...]:
    """Write these figures as `folder/name.format`."""
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise SettingError(f"expected figures as {', '.join(FORMATS)}, got {unknown[0]!r}")
    wanted = [(named, kind) for named in figures for kind in formats]
    written = []
    for (named, kind), content in zip(wanted, _rendered(wanted), strict=True):
        path = Path(folder) / f"{named.name}.{kind}"
        write_bytes_atomic(path, _without_random_names(content) if kind == "svg" else content)
        written.append(path)
    return tuple(written)


def _rendered(wanted: Sequence[tuple[NamedFigure, str]]) -> list[bytes]:
    """Every figure in its format, by one browser.

    The browser's flags are kaleido's own: headless, without a sandbox (root has none) and without a GPU.
    MathJax is off, because it would come from the network. The event loop runs in a thread of its own,
    because a notebook has one already.
    """
    try:
        import kaleido
        from kaleido.errors import BrowserFailedError, ChromeNotFoundError
    except ImportError as error:
        raise MissingDependencyError(
            "writing figures as files needs kaleido 1 or newer: pip install 'isthmus[figures]'"
        ) from error

    async def render() -> list[bytes]:
        async with kaleido.Kaleido(path=browser_path(), mathjax=False) as browser:
            return [
                await browser.calc_fig(_plain(named), opts=_options(named, kind)) for named, kind in wanted
            ]

    try:
        with ThreadPoolExecutor(max_workers=1) as thread:
            return thread.submit(lambda: asyncio.run(render())).result()
    except (ChromeNotFoundError, BrowserFailedError) as error:
        raise MissingDependencyError(f"{_NO_BROWSER} ({str(error).strip().splitlines()[0]})") from error


def browser_path() -> str | None:
    """Where the browser is: `BROWSER_PATH`, or the first of the usual names; None leaves it to kaleido.

    Raises:
        MissingDependencyError: `BROWSER_PATH` names no file.
    """
    given = os.environ.get("BROWSER_PATH")
    if given and not Path(given).is_file():
        raise MissingDependencyError(f"BROWSER_PATH is {given!r}, which is no file. {_NO_BROWSER}")
    return given or next((found for name in _BROWSERS if (found := shutil.which(name))), None)


def _plain(named: NamedFigure) -> dict[str, Any]:
    """The figure on white and without buttons."""
    spec: dict[str, Any] = named.figure.to_dict()
    layout = spec["layout"] | {"paper_bgcolor": "#ffffff", "updatemenus": []}
    return spec | {"layout": layout}


def _options(named: NamedFigure, kind: str) -> dict[str, Any]:
    return {
        "format": kind,
        "width": named.width,
        "height": named.figure.layout.height,
        "scale": 1 if kind in ("svg", "pdf") else _PIXELS_PER_POINT,
    }


def _without_random_names(svg: bytes) -> bytes:
    """With clips numbered, which the drawing library names at random: the same figure, the same file."""
    numbers: dict[str, str] = {}

    def numbered(found: re.Match[str]) -> str:
        return found[1] + numbers.setdefault(found[2], f"{len(numbers):06d}")

    return _RANDOM_NAME.sub(numbered, svg.decode()).encode()
