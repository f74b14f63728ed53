"""The verdict in words: what the records say, and what they do not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from isthmus.barriers import Barrier, Verdict
from isthmus.experiments.records import Fit, Matching, PairStudy, PathStudy
from isthmus.report.formats import (
    count,
    coverage,
    group_size,
    interval,
    percent,
    plain_loss,
    position,
    significant,
    tolerance,
)
from isthmus.symmetry import Symmetry, Verification

VERDICT_WORDS = {
    Verdict.CONNECTED: "connected",
    Verdict.BARRIER: "barrier",
    Verdict.UNDECIDED: "undecided",
}
"""A verdict in one word."""

VERDICT_SIGNS = {Verdict.CONNECTED: "✓", Verdict.BARRIER: "✕", Verdict.UNDECIDED: "?"}
"""A sign that tells verdicts apart without colour."""

CAVEAT = (
    "This is a statement about these examples and this tolerance. It says nothing about how the networks or "
    "anything between them would do on other data, and nothing about paths that were not tried."
)
"""What a verdict does not say."""


def verdict_sentence(study: PairStudy, split: str = "test") -> str:
    """Which paths join A and B at the tolerance, with barriers and intervals: no more than is known.

    Args:
        study: the pair's records.
        split: the data that decide: held-out by default.
    """
    if not study.paths:
        return "No path between A and B was measured, so nothing is known of their connection."
    found = {path.name: path.barrier("error", split) for path in study.paths}
    first = next(iter(found.values()))
    data = "held-out" if split == "test" else "training"
    at = tolerance(study.tolerance)
    where = f"On {count(first.examples)} {data} examples and at a tolerance of {at} error"
    clauses = _clauses(found, study.tolerance)
    return f"{where}, {'; '.join(clauses)}."


def fit_sentence(name: str, fit: Fit) -> str:
    """How a path's procedure ended, and the saddle that it found, if it looks for one."""
    told = f"The {name}: {_ended(fit)}."
    if (saddle := fit.saddle) is None:
        return told
    data = "training" if saddle.split == "train" else "held-out"
    return (
        f"{told} Its saddle, the highest of {count(saddle.points)} evaluated positions, is at t = "
        f"{position(saddle.t)} with loss {plain_loss(saddle.loss)} and error {percent(saddle.error)} on "
        f"{count(saddle.examples)} {data} examples."
    )


def _ended(fit: Fit) -> str:
    """The outcome; of a string with its level, and with what ended a search without success."""
    stopped = fit.settings.get("stopped_by")
    if stopped is None:
        return fit.outcome.rstrip(".")
    at = f"{fit.settings['of']} {significant(float(fit.settings['level']), 4)}"
    if not stopped:
        return f"it stays below the level, training {at}, at every tested position"
    why = {
        "depth": "the pieces were halved as often as allowed",
        "steps": "a bead did not get down to it within its steps",
        "divergence": "the loss of a bead became infinite or not a number",
    }
    return f"no path below the level, training {at}, was found: {why[str(stopped)]}"


def saddle_sentences(study: PairStudy) -> str:
    """What the procedures of a study that look for saddles found; empty if there are none."""
    fits = [(path.name, path.fit) for path in study.paths]
    return " ".join(fit_sentence(name, fit) for name, fit in fits if fit is not None and fit.saddle)


def headline(study: PairStudy, split: str = "test") -> str:
    """The verdict in the fewest words, with the tolerance and without further figures."""
    if not study.paths:
        return "No path was measured"
    groups = _grouped({path.name: path.barrier("error", split) for path in study.paths}, study.tolerance)
    connected, undecided = groups[Verdict.CONNECTED], groups[Verdict.UNDECIDED]
    at = tolerance(study.tolerance)
    if connected:
        return f"Connected at {at} error along {_listed(f'the {name}' for name in connected)}"
    if undecided:
        return f"Undecided at {at} error along {_listed(f'the {name}' for name in undecided)}"
    return f"Not connected at {at} error: a barrier remains on every path that was tried"


def train_sentence(study: PairStudy) -> str:
    """How the training data judge the same paths; empty if no path was measured."""
    if not study.paths:
        return ""
    words = {path.name: (_word(path, study, "train"), _word(path, study, "test")) for path in study.paths}
    differ = [
        f"the {name} ({train} on train, {held_out} on held-out data)"
        for name, (train, held_out) in words.items()
        if train != held_out
    ]
    if not differ:
        return "The training data give the same verdict on every path."
    return f"The training data give another verdict on {_listed(differ)}."


def barrier_sentence(barrier: Barrier) -> str:
    """One barrier with its interval and its sample, for captions and hovering."""
    value = percent(barrier.height) if barrier.of == "error" else f"{plain_loss(barrier.height)} nats"
    return (
        f"{barrier.of} barrier {value}, {coverage(barrier.level)} interval "
        f"{interval(barrier.of, barrier.low, barrier.high)}, on {count(barrier.examples)} examples"
    )


def matching_sentence(matching: Matching) -> str:
    """What a matching reached, and what it searched."""
    return (
        f"{_capital(matching.outcome)}. It brought the distance between A and B from "
        f"{significant(matching.distance_before, 4)} to {significant(matching.distance, 4)}, and their inner "
        f"product from {significant(matching.objective_before, 4)} to {significant(matching.objective, 4)}. "
        f"The group has {_elements(matching.log2_order)}; {coverage(matching.coverage)} of the parameters "
        "lie in tensors that can move."
    )


def _elements(log2_order: float) -> str:
    """How many elements a group has."""
    size = group_size(log2_order)
    return f"{size} element{'s' * (size != '1')}"


def symmetry_sentence(symmetry: Symmetry) -> str:
    """How large the group is, and how much of the network it can move."""
    size, power = group_size(symmetry.log2_order), symmetry.log2_order * math.log10(2)
    written = f" (log₁₀ of the order: {power:.1f})" if size.startswith("10") and power > 6 else ""
    return (
        f"The group has {_elements(symmetry.log2_order)}{written}; {coverage(symmetry.coverage)} "
        f"of the {count(symmetry.layout.numel)} parameters lie in tensors that can move."
    )


def proof_sentence(proof: Verification) -> str:
    """What the numerical check of a symmetry found, and where it proves little."""
    told = [
        f"{'Proved' if proof.passed else 'Checked'} in float64: with the axes moved, the outputs "
        f"({_some(proof.outputs)}) change by {proof.error:.1e} at most, relative to the largest (allowed: "
        f"{proof.tolerance:.0e})"
    ]
    if proof.controls:
        fired = len(proof.controls) - len(proof.powerless)
        told.append(f"with one tensor left out, they change in {fired} of {len(proof.controls)} controls")
    if proof.failed:
        told.append(f"these had to be pinned, as moving them changed the outputs: {_some(proof.failed)}")
    if proof.unmoved:
        told.append(f"nothing is proved of these, as no trial moved them: {_some(proof.unmoved)}")
    if proof.powerless:
        told.append(
            f"little is proved of these, as leaving a tensor out changed nothing: {_some(proof.powerless)}"
        )
    return "; ".join(told) + "."


def _some(names: Sequence[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:].rstrip(".")


def _clauses(found: dict[str, Barrier], at: float) -> list[str]:
    groups = _grouped(found, at)
    order = [name for verdict in Verdict for name in groups[verdict]]
    shown = {name: f"the {name} ({_figures(found[name], first=name == order[0])})" for name in order}
    listed = {verdict: _listed(shown[name] for name in names) for verdict, names in groups.items() if names}
    clauses = []
    if Verdict.CONNECTED in listed:
        clauses.append(f"A and B are connected along {listed[Verdict.CONNECTED]}")
    if Verdict.BARRIER in listed:
        clauses.append(f"a barrier remains on {listed[Verdict.BARRIER]}")
    if Verdict.UNDECIDED in listed:
        measured = all(math.isfinite(found[name].height) for name in groups[Verdict.UNDECIDED])
        why = "the interval contains the tolerance" if measured else "the barrier could not be measured"
        clauses.append(f"it is undecided along {listed[Verdict.UNDECIDED]}, where {why}")
    return clauses


def _figures(barrier: Barrier, first: bool) -> str:
    """Barrier and interval; what the two are is said once."""
    bounds = f"{interval('error', barrier.low, barrier.high)} %"
    if first:
        return f"error barrier {percent(barrier.height)}, {coverage(barrier.level)} interval {bounds}"
    return f"{percent(barrier.height)}, {bounds}"


def _grouped(found: dict[str, Barrier], at: float) -> dict[Verdict, list[str]]:
    groups: dict[Verdict, list[str]] = {verdict: [] for verdict in Verdict}
    for name, barrier in found.items():
        groups[barrier.verdict(at)].append(name)
    return groups


def _word(path: PathStudy, study: PairStudy, split: str) -> str:
    return VERDICT_WORDS[path.barrier("error", split).verdict(study.tolerance)]


def _listed(items: Iterable[str]) -> str:
    """Items with commas and a last "and"."""
    *most, last = items
    return f"{', '.join(most)} and {last}" if most else last
