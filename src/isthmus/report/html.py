"""The report as one page: a single file that needs no network and no other file."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

from isthmus.atomic import write_text_atomic
from isthmus.errors import SettingError
from isthmus.experiments.records import PairStudy
from isthmus.report.formats import interval, percent
from isthmus.report.sentences import (
    CAVEAT,
    VERDICT_SIGNS,
    VERDICT_WORDS,
    headline,
    train_sentence,
    verdict_sentence,
)

if TYPE_CHECKING:
    from isthmus.report.sections import Drawing, Section

_TOGETHER = re.compile(r"(?<=[\d\]]) (?=%)|(?<=\d,) (?=[−\d.]+\])|(?<=\d) (?=× 10)")
"""Spaces at which a line must not break: before a unit and within an interval."""


def write_report(records: PairStudy | Sequence[object], path: str | os.PathLike[str]) -> None:
    """Write a report as one self-contained HTML file.

    The same records give the same bytes. The file holds the plotting library (about 5 MB) and loads nothing:
    a content policy in the page forbids it.

    Args:
        records: a pair's study, or several records of any kind that `plot` draws, one section each.
        path: of the file; written whole or not at all.

    Raises:
        SettingError: there is nothing to report, or a record that cannot be drawn.
    """
    write_text_atomic(path, render_report(records))


def render_report(records: PairStudy | Sequence[object]) -> str:
    """The page as text: see `write_report`."""
    import jinja2
    from plotly.offline import get_plotlyjs

    from isthmus.report.sections import record_section, study_sections

    studies, rest = _sorted_out(records)
    sections: list[Section] = []
    for index, study in enumerate(studies, start=1):
        sections += study_sections(study, f"pair-{index}-" if len(studies) > 1 else "")
    sections += [record_section(record, index) for index, record in enumerate(rest, start=1)]
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["units"] = _with_units
    return environment.from_string(_text("page.html")).render(
        title=_title(studies),
        verdicts=[_verdict(study) for study in studies],
        caveat=CAVEAT,
        sections=sections,
        drawings=[_drawn(each) for each in _drawings(sections)],
        style=_text("page.css"),
        script=_text("page.js"),
        library=get_plotlyjs().replace("</script", "<\\/script"),
    )


def _sorted_out(records: PairStudy | Sequence[object]) -> tuple[list[PairStudy], list[object]]:
    several = list(records) if isinstance(records, (list, tuple)) else [records]
    if not several:
        raise SettingError("there is nothing to report: expected a PairStudy or at least one record")
    studies = [record for record in several if isinstance(record, PairStudy)]
    return studies, [record for record in several if not isinstance(record, PairStudy)]


def _title(studies: Sequence[PairStudy]) -> str:
    return ", ".join(dict.fromkeys(study.task for study in studies)) or "Records"


def _verdict(study: PairStudy) -> dict[str, Any]:
    """What stands at the head of the page."""
    cards = []
    for path in study.paths:
        barrier = path.barrier("error", "test")
        verdict = barrier.verdict(study.tolerance)
        cards.append(
            {
                "name": path.name,
                "state": verdict.name.lower(),
                "badge": f"{VERDICT_SIGNS[verdict]} {VERDICT_WORDS[verdict]}",
                "value": percent(barrier.height),
                "interval": interval("error", barrier.low, barrier.high),
            }
        )
    return {
        "task": study.task,
        "headline": headline(study),
        "sentence": verdict_sentence(study),
        "train": train_sentence(study),
        "cards": cards,
        "cards_title": "Error barrier above the mean of the ends, on held-out data, with its interval",
    }


def _drawings(sections: Sequence[Section]) -> list[Drawing]:
    from isthmus.report.sections import Figures

    return [
        drawing
        for section in sections
        for block in section.blocks
        if isinstance(block, Figures)
        for drawing in block.drawings
    ]


def _drawn(drawing: Drawing) -> dict[str, str]:
    """A figure as JSON that can stand in a script element."""
    from plotly.io.json import to_json_plotly

    spec = drawing.figure.to_dict()
    spec["layout"]["paper_bgcolor"] = "rgba(0,0,0,0)"
    return {"name": drawing.name, "json": _scriptable(to_json_plotly(spec, engine="json"))}


def _scriptable(text: str) -> str:
    """JSON without a character that could end the script element it stands in."""
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _with_units(text: str) -> str:
    """A number and its unit on one line."""
    return _TOGETHER.sub("\u00a0", text)


def _text(name: str) -> str:
    return resources.files("isthmus.report").joinpath(name).read_text(encoding="utf-8")
