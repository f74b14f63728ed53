"""The report as one page: a single file that needs no network and no other file."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING

from isthmus.atomic import write_text_atomic
from isthmus.errors import SettingError

if TYPE_CHECKING:
    from isthmus.report.pages import Page
    from isthmus.report.sections import Drawing, Section

_TOGETHER = re.compile(r"(?<=[\d\]]) (?=%)|(?<=\d,) (?=[−\d.]+\])|(?<=\d) (?=× 10)")
"""Spaces at which a line must not break: before a unit and within an interval."""


def write_report(records: object, path: str | os.PathLike[str]) -> None:
    """Write a report as one self-contained HTML file.

    The same records give the same bytes. The file holds the plotting library (about 5 MB) and loads nothing:
    a content policy in the page forbids it.

    Args:
        records: a study, or several records: studies with all their sections, and whatever else `plot` draws
            with one section each.
        path: of the file; written whole or not at all.

    Raises:
        SettingError: there is nothing to report, or a record that cannot be drawn.
    """
    write_text_atomic(path, render_report(records))


def render_report(records: object) -> str:
    """The page as text: see `write_report`."""
    import jinja2
    from plotly.offline import get_plotlyjs

    from isthmus.report.sections import record_section
    from isthmus.report.studies import is_study, page_of

    several = _several(records)
    studies = [record for record in several if is_study(record)]
    rest = [record for record in several if not is_study(record)]
    pages = [
        page_of(study, f"study-{index}-" if len(studies) > 1 else "")
        for index, study in enumerate(studies, start=1)
    ]
    sections = [section for page in pages for section in page.sections]
    sections += [record_section(record, index) for index, record in enumerate(rest, start=1)]
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["units"] = _with_units
    return environment.from_string(_text("page.html")).render(
        title=_title(pages),
        pages=pages,
        sections=sections,
        drawings=[_drawn(each) for each in _drawings(sections)],
        style=_text("page.css"),
        script=_text("page.js"),
        library=get_plotlyjs().replace("</script", "<\\/script"),
    )


def _several(records: object) -> list[object]:
    several = list(records) if isinstance(records, (list, tuple)) else [records]
    if not several:
        raise SettingError("there is nothing to report: expected a study or at least one record")
    return several


def _title(pages: Sequence[Page]) -> str:
    return ", ".join(dict.fromkeys(page.title for page in pages)) or "Records"


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
