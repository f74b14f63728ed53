"""The kinds of paths that can be asked for by name."""

from __future__ import annotations

from isthmus.connect.abstract import AbstractConnector
from isthmus.connect.curve import CurveConnector
from isthmus.errors import SettingError

KINDS: dict[str, str] = {"bezier": "curve", "chain": "curve"}
"""From the name of a kind to what a path of it is called."""

_CURVE_STEPS = 1000


def connector_named(
    kind: str,
    bends: int = 1,
    *,
    epochs: float | None = None,
    steps: int | None = None,
    rate: float | None = None,
    level: float | None = None,
    seed: int = 0,
) -> AbstractConnector:
    """The connector of a kind of path.

    Args:
        kind: a name of `KINDS`.
        bends: inner controls of a curve.
        epochs: passes over the training data.
        steps: gradient steps, instead of epochs. If neither is given, 1,000 of a curve, and the connector's
            own default of the others.
        rate: the peak rate; the connector's default if it is not given.
        level: of a string.
        seed: of everything random.

    Raises:
        SettingError: there is no such kind, or a setting is out of range.
    """
    if kind in ("bezier", "chain"):
        if epochs is None and steps is None:
            steps = _CURVE_STEPS
        return CurveConnector(kind, bends, epochs=epochs, steps=steps, rate=rate, seed=seed)
    raise SettingError(f"expected a kind of path ({', '.join(KINDS)}), got {kind!r}")
