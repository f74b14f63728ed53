"""What is said of an ensemble: its quality, that of others on the same examples, and what it gains."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from isthmus.ensembles.calibration import Reliability

ENSEMBLE, AVERAGE, SINGLE, BEST = "ensemble", "weight average", "mean single", "best single"
"""What an ensemble is compared with, by the names in its record."""


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
        value: on the examples as they are.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Quality:
    """How good one predictor is on one split.

    Attributes:
        name: "ensemble", "weight average", "mean single", or a member's.
        split: "train" or "test".
        examples: how many examples.
        loss: mean loss; for cross-entropy the negative log-likelihood in nats.
        error: error rate, in [0, 1].
        calibration: expected calibration error, in [0, 1]; None where outputs are averaged.
        reliability: what the calibration error is the mean gap of; None likewise, and for "mean single".
    """

    name: str
    split: str
    examples: int
    loss: Estimate
    error: Estimate
    calibration: Estimate | None
    reliability: Reliability | None


@dataclass(frozen=True)
class Gain:
    """How much lower the ensemble lies than something else on the same examples; below 0 where it is worse.

    Attributes:
        over: "best single", "mean single" or "weight average".
        split: "train" or "test".
        loss: its mean loss minus the ensemble's.
        error: its error rate minus the ensemble's.
        calibration: its calibration error minus the ensemble's; None where there is none.
    """

    over: str
    split: str
    loss: Estimate
    error: Estimate
    calibration: Estimate | None


@dataclass(frozen=True, eq=False, repr=False)
class Ensemble:
    """Several points as one predictor, and what it is to be compared with.

    Attributes:
        names: of the members.
        t: positions of the members on their path, shape (members,); shape (0,) where there is no path.
        best: the number of the best single member: the one of the lowest mean loss on held-out data (on the
            first split measured, if that is not among them).
        qualities: of the ensemble, the weight average, the mean member and every member, on each split.
        gains: of the ensemble over the best single member, the mean one and the weight average.
        disagreement: for each split, how often two members predict different classes, in [0, 1]: the mean
            over pairs; nan where outputs are averaged.
        averaged: "probabilities" or "outputs".
        level: nominal coverage of the intervals.
        bins: of confidence, for the calibration error.
        batchnorm: where the members' batch-norm statistics came from; the weight average's are measured anew.
    """

    names: tuple[str, ...]
    t: Tensor
    best: int
    qualities: tuple[Quality, ...]
    gains: tuple[Gain, ...]
    disagreement: dict[str, float]
    averaged: str
    level: float
    bins: int
    batchnorm: str

    def __repr__(self) -> str:
        split = self.splits[-1]
        mine, gain = self.quality(ENSEMBLE, split), self.gain(BEST, split).error
        return (
            f"Ensemble({len(self.names)} members, {mine.examples} {split} examples: loss "
            f"{mine.loss.value:.4g}, error {mine.error.value:.2%}, {gain.value:+.2%} below the best single's "
            f"[{gain.low:+.2%}, {gain.high:+.2%}])"
        )

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that were measured."""
        return tuple(self.disagreement)

    def quality(self, name: str = ENSEMBLE, split: str = "test") -> Quality:
        """The quality of the predictor of this name ("best single" is one, too) on this split."""
        wanted = self.names[self.best] if name == BEST else name
        return next(q for q in self.qualities if (q.name, q.split) == (wanted, split))

    def gain(self, over: str = BEST, split: str = "test") -> Gain:
        """The gain over this on this split."""
        return next(g for g in self.gains if (g.over, g.split) == (over, split))
