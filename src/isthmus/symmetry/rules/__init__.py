"""What every ATen operation means for labels."""

from isthmus.symmetry.rules.call import Call, Result, Rule, unknown
from isthmus.symmetry.rules.table import IGNORED, POINTING, RULES

__all__ = ["IGNORED", "POINTING", "RULES", "Call", "Result", "Rule", "unknown"]
