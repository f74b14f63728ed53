"""The exception tree: every error that a user of isthmus can cause.

Each message says what was expected, what came, where, and what to do. The command line prints
the message as one paragraph and exits with code 2; any other exception is a defect of isthmus.
"""

from __future__ import annotations


class IsthmusError(Exception):
    """The root of all errors that isthmus raises on purpose."""


class SettingError(IsthmusError, ValueError):
    """An argument lies outside its range, or arguments contradict each other."""


class LayoutError(IsthmusError, ValueError):
    """Two sets of weights, or weights and a module, have different names, shapes or dtypes."""


class CheckpointError(IsthmusError):
    """A checkpoint cannot be read, is unsafe, is damaged, or holds values that are not finite."""


class DataError(IsthmusError, ValueError):
    """A data set is missing, empty, unlabelled or in a format that is not understood."""


class TaskError(IsthmusError):
    """A task file does not import, defines no task, or its functions return the wrong thing."""


class SymmetryError(IsthmusError):
    """A module cannot be traced, or a group element does not fit the weights it is applied to."""


class RunError(IsthmusError):
    """A run folder belongs to another run, is damaged, or is in use."""


class MissingDependencyError(IsthmusError, ImportError):
    """An optional library or program that this feature needs is not installed."""


class SymmetryWarning(UserWarning):
    """A part of a symmetry failed its numerical verification and was pinned: a rule of isthmus is wrong."""
