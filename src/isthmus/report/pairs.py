"""The page of a pair's story."""

from __future__ import annotations

from functools import partial

from isthmus.experiments.records import PairStudy
from isthmus.report.drawing import study_figures
from isthmus.report.formats import interval, percent
from isthmus.report.pages import Card, Page
from isthmus.report.sections import study_sections
from isthmus.report.sentences import (
    CAVEAT,
    VERDICT_SIGNS,
    VERDICT_WORDS,
    headline,
    saddle_sentences,
    train_sentence,
    verdict_sentence,
)
from isthmus.report.tables import study_rows


def pair_page(study: PairStudy, prefix: str = "") -> Page:
    """A pair: the verdict on every path, then the whole story."""
    cards = []
    for path in study.paths:
        barrier = path.barrier("error", "test")
        verdict = barrier.verdict(study.tolerance)
        badge = f"{VERDICT_SIGNS[verdict]} {VERDICT_WORDS[verdict]}"
        spread = interval("error", barrier.low, barrier.high)
        cards.append(Card(path.name, percent(barrier.height), spread, badge, verdict.name.lower()))
    return Page(
        title=study.task,
        headline=headline(study),
        sentence=f"{verdict_sentence(study)} {saddle_sentences(study)}".rstrip(),
        aside=f"{train_sentence(study)} {CAVEAT}",
        cards_title="Error barrier above the mean of the ends, on held-out data, with its interval",
        cards=tuple(cards),
        sections=tuple(study_sections(study, prefix)),
        figures=partial(study_figures, study),
        tables=(study_rows(study),) if study.paths else (),
    )
