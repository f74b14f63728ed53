"""Every kind of study, and its page: the one table of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from isthmus.errors import RunError, SettingError
from isthmus.experiments.alignedrecords import CurveComparison
from isthmus.experiments.ensembling import EnsembleStudy
from isthmus.experiments.levels import LevelStudy
from isthmus.experiments.minimarecords import MinimaStudy
from isthmus.experiments.planes import PlaneStudy
from isthmus.experiments.records import PairStudy
from isthmus.experiments.simplexrecords import SimplexStudy
from isthmus.io.records import read_record
from isthmus.report.alignedcurves import curves_page
from isthmus.report.ensembles import ensemble_page
from isthmus.report.levels import levels_page
from isthmus.report.minima import minima_page
from isthmus.report.pages import Page
from isthmus.report.pairs import pair_page
from isthmus.report.planestudy import plane_page
from isthmus.report.simplexes import simplex_page

PAGES: dict[type[Any], Callable[..., Page]] = {
    PairStudy: pair_page,
    CurveComparison: curves_page,
    EnsembleStudy: ensemble_page,
    LevelStudy: levels_page,
    MinimaStudy: minima_page,
    PlaneStudy: plane_page,
    SimplexStudy: simplex_page,
}
"""From a kind of study to a function of (study, prefix of the page's element names) that makes its page."""


def is_study(record: object) -> bool:
    """Whether a record is a whole study, with a page of its own."""
    return type(record) in PAGES


def page_of(study: object, prefix: str = "") -> Page:
    """The page of a study of any kind.

    Raises:
        SettingError: the record is no study.
    """
    if not is_study(study):
        known = ", ".join(kind.__name__ for kind in PAGES)
        raise SettingError(f"a {type(study).__name__} is no study: expected a {known}")
    return PAGES[type(study)](study, prefix)


def read_study(path: Path) -> Any:
    """The study that a run has written, of whatever kind.

    Raises:
        RunError: the file is damaged or holds no study.
    """
    try:
        name = json.loads(path.read_text(encoding="utf-8"))["record"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path} is not a readable record ({error}); delete it and run the command again"
        ) from error
    kinds = {kind.__name__: kind for kind in PAGES}
    if name not in kinds:
        raise RunError(f"{path} holds the record {name}, expected a study ({', '.join(kinds)})")
    return read_record(path, kinds[name])
