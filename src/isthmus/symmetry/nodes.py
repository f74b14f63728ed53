"""What a node of a traced graph says: its operation, its arguments by name, and where it was called."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import fx


def operation_name(target: Any) -> str:
    """The name of an operation, without overload and in-place underscore."""
    schema = getattr(target, "_schema", None)
    if schema is None:
        return str(getattr(target, "__name__", target))
    name = str(schema.name)
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def named_arguments(node: fx.Node) -> Iterable[tuple[str, Any]]:
    """All arguments under the names of the operation's schema, defaults included."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        yield from ((str(number), value) for number, value in enumerate(node.args))
        yield from node.kwargs.items()
        return
    for number, argument in enumerate(schema.arguments):
        if number < len(node.args):
            yield argument.name, node.args[number]
        elif argument.name in node.kwargs:
            yield argument.name, node.kwargs[argument.name]
        elif argument.has_default_value():
            yield argument.name, argument.default_value


def where_of(node: fx.Node, name: str) -> str:
    """The operation and the module that calls it, in words."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = str(stack[-1][0]) if stack else ""
    return f"{name.removeprefix('aten::')} in {path}" if path else name.removeprefix("aten::")
