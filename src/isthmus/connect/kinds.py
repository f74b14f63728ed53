"""The kinds of paths that can be asked for by name."""

from __future__ import annotations

from isthmus.connect.abstract import AbstractConnector
from isthmus.connect.band import BandConnector
from isthmus.connect.curve import CurveConnector
from isthmus.connect.string import StringConnector
from isthmus.errors import SettingError

KINDS: dict[str, str] = {"bezier": "curve", "chain": "curve", "neb": "band", "string": "string"}
"""From the name of a kind to what a path of it is called."""

_CURVE_STEPS = 1000


def connector_named(
    kind: str,
    bends: int | None = None,
    *,
    epochs: float | None = None,
    steps: int | None = None,
    rate: float | None = None,
    level: float | None = None,
    sampling: str = "uniform",
    restarts: int = 1,
    spread: float = 0.1,
    seed: int = 0,
) -> AbstractConnector:
    """The connector of a kind of path; what is not given is the connector's own default.

    Args:
        kind: a name of `KINDS`.
        bends: inner controls of a curve, 1 by default; pivots that a band begins with.
        epochs: passes over the training data, of a curve.
        steps: gradient steps, instead of epochs, 1,000 of a curve by default; of a band in all; of each bead
            of a string.
        rate: the peak rate.
        level: the loss that a string may not exceed.
        sampling: where a curve's fit draws its positions: even in "uniform" t, or in "arc" length.
        restarts: starts of a curve's fit: see `fit_curve`.
        spread: how far a curve's further starts bend.
        seed: of everything random.

    Raises:
        SettingError: there is no such kind, or it has no such setting, or a setting is out of range.
    """
    if kind not in KINDS:
        raise SettingError(f"expected a kind of path ({', '.join(KINDS)}), got {kind!r}")
    if epochs is not None and steps is not None:
        raise SettingError(f"give epochs or steps of a fit, not both; got {epochs:g} and {steps}")
    called = KINDS[kind]
    if epochs is not None and called != "curve":
        raise SettingError(f"epochs are for the fit of a curve; a {called} takes a number of steps")
    if bends is not None and called == "string":
        raise SettingError("a string inserts its beads where they are needed; leave out the bends")
    if level is not None and called != "string":
        raise SettingError(f"a level is for the kind 'string', got one for {kind!r}")
    if called != "curve" and (sampling != "uniform" or restarts != 1):
        raise SettingError(f"sampling and restarts are for the fit of a curve, not of a {called}")
    if called == "band":
        return BandConnector(pivots=bends, steps=steps, rate=rate, seed=seed)
    if called == "string":
        return StringConnector(level=level, steps=steps, rate=rate, seed=seed)
    if epochs is None and steps is None:
        steps = _CURVE_STEPS
    return CurveConnector(
        kind, 1 if bends is None else bends, epochs=epochs, steps=steps, rate=rate, sampling=sampling,
        restarts=restarts, spread=spread, seed=seed,
    )  # fmt: skip
