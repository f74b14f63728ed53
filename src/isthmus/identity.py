"""What a result depends on, as a digest: saved states and run folders of anything else are refused.

Data and weights are digested by content. Code is digested by its bytecode, constants and closure: an
edited loss is another loss. Limits: code that a function merely calls is followed one level, not further,
and state that it reads from elsewhere is not seen.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from types import CodeType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn


def digest_of(*parts: object) -> str:
    """A SHA-256 of plain values: the identity of a procedure or a run.

    Example:
        >>> digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
        True
    """
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def described(value: object) -> Any:
    """A value as plain data in which nothing changes from process to process; functions by their code.

    Example:
        >>> described(lambda x: x + 1) == described(lambda x: x + 1)
        True
        >>> described(lambda x: x + 1) == described(lambda x: x + 2)
        False
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        content = hashlib.sha256(flat.numpy().data).hexdigest()
        return [str(value.dtype), list(value.shape), content]
    if isinstance(value, (list, tuple, set, frozenset)):
        return [described(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): described(item) for key, item in value.items()}
    if isinstance(value, functools.partial):
        return ["partial", described(value.func), described(value.args), described(value.keywords)]
    if isinstance(value, MethodType):
        return ["method", described(value.__func__), type(value.__self__).__qualname__]
    if isinstance(value, FunctionType):
        return ["function", value.__qualname__, _code(value.__code__), _captured(value)]
    if isinstance(value, nn.Module):
        return described_module(value)
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if callable(value):
        name = getattr(value, "__qualname__", None)
        return name or [
            type(value).__qualname__,
            described(vars(value)) if hasattr(value, "__dict__") else "",
        ]
    return type(value).__qualname__


def described_module(module: nn.Module) -> Any:
    """A module's structure and the code of its parts' forward; not its weights."""
    kinds = {type(part) for part in module.modules()}
    own = sorted(
        (f"{kind.__module__}.{kind.__qualname__}", _code(kind.forward.__code__))
        for kind in kinds
        if isinstance(kind.forward, FunctionType) and not kind.__module__.startswith("torch.")
    )
    return [repr(module), own]


def _code(code: CodeType) -> str:
    """A digest of what a piece of code does: bytecode, names and constants, inner functions included."""
    constants = [_code(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return digest_of(code.co_code.hex(), list(code.co_names), constants)


def _captured(function: Callable[..., Any]) -> list[Any]:
    """Defaults and closed-over values; functions among the globals it names by their code."""
    assert isinstance(function, FunctionType)
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    named = [function.__globals__.get(name) for name in function.__code__.co_names]
    called = [_code(f.__code__) for f in named if isinstance(f, FunctionType)]
    plain = [c for c in cells if c is not function and not isinstance(c, FunctionType)]
    inner = [_code(c.__code__) for c in cells if isinstance(c, FunctionType)]
    return [described(function.__defaults__), [described(c) for c in plain], inner, called]
