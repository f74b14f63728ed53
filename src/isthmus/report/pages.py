"""What a study becomes: the head of its page, sections, figures as files, and the terminal's tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from isthmus.report.drawing import NamedFigure
from isthmus.report.sections import Section
from isthmus.report.tables import Table


@dataclass(frozen=True)
class Card:
    """One figure at the head of a page.

    Attributes:
        name: what it is of.
        value: the figure, with its unit.
        detail: its interval, or what it rests on.
        badge: what it means, in two words; empty for none.
        state: "connected", "barrier", "undecided", or "plain" where there is no verdict.
    """

    name: str
    value: str
    detail: str = ""
    badge: str = ""
    state: str = "plain"


@dataclass(frozen=True, eq=False)
class Page:
    """A study, ready to be shown.

    Attributes:
        title: the task's name, as a rule.
        headline: what was found, in one sentence without a full stop.
        sentence: the claim with its data and interval; what the terminal prints below its tables.
        aside: what a reader must bear in mind.
        cards_title: what the cards show.
        cards: the main figures.
        sections: the page's body.
        figures: makes what is written as files, in the order of the page.
        tables: what the terminal shows.
    """

    title: str
    headline: str
    sentence: str
    aside: str = ""
    cards_title: str = ""
    cards: tuple[Card, ...] = ()
    sections: tuple[Section, ...] = ()
    figures: Callable[[], tuple[NamedFigure, ...]] = tuple
    tables: tuple[Table, ...] = ()
