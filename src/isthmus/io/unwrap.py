"""From whatever a checkpoint file holds to a plain mapping of names to tensors, saying what was taken off."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from isthmus.errors import CheckpointError

State = dict[str, Tensor]

_WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "module",
    "weights",
    "params",
    "parameters",
    "ema",
    "model_ema",
    "state_dict_ema",
    "ema_state_dict",
)
_PREFIXES = ("module.", "_orig_mod.", "model.")
_AVERAGED = "n_averaged"
_DEEPEST = 3
_NAMED = 4


def unwrap(value: Any, where: str, wanted: frozenset[str] | None = None) -> tuple[State, tuple[str, ...]]:
    """Find the state dict in what a file held.

    Args:
        value: the content of the file.
        where: the file, for errors.
        wanted: the names that the model has, if it is known; prefixes are then taken off only as far as it
            makes more names fit.

    Returns:
        The names and tensors, and a sentence for each thing that was taken off or left out.

    Raises:
        CheckpointError: there is no state dict in it, or more than one.
    """
    notes: list[str] = []
    mapping = _descend(value, where, notes)
    state = _tensors_only(mapping, where, notes)
    return _strip(state, wanted, notes), tuple(notes)


def _descend(value: Any, where: str, notes: list[str]) -> Mapping[Any, Any]:
    """Follow the usual wrapper keys down to the mapping that holds the tensors."""
    for _ in range(_DEEPEST):
        if not isinstance(value, Mapping):
            raise CheckpointError(
                f"{where} holds a {type(value).__name__}: expected a state dict, that is names mapped to "
                "tensors; save model.state_dict()"
            )
        nested = [key for key, part in value.items() if isinstance(part, Mapping) and _has_tensors(part)]
        usual = [key for key in _WRAPPERS if key in nested]
        if not usual and any(isinstance(part, Tensor) for part in value.values()):
            break
        if not usual and len(nested) > 1:
            raise CheckpointError(
                f"{where} holds several state dicts ({_listed(nested)}) and does not say which is the model: "
                "save the one that is meant in a file of its own"
            )
        if not nested:
            break
        key = (usual or nested)[0]
        rest = [str(other) for other in value if other != key]
        notes.append(f"took the state dict under {str(key)!r}" + (f", left {_listed(rest)}" if rest else ""))
        value = value[key]
    return value  # type: ignore[no-any-return]


def _has_tensors(part: Mapping[Any, Any], depth: int = 2) -> bool:
    return any(
        isinstance(value, Tensor)
        or (depth > 1 and isinstance(value, Mapping) and _has_tensors(value, depth - 1))
        for value in part.values()
    )


def _tensors_only(mapping: Mapping[Any, Any], where: str, notes: list[str]) -> State:
    """The dense tensors of a mapping; other entries are left out and told."""
    state: State = {}
    left = []
    for name, value in mapping.items():
        if not isinstance(value, Tensor):
            left.append(f"{name} ({type(value).__name__})")
            continue
        if not isinstance(name, str):
            raise CheckpointError(
                f"{where} has a tensor under the key {name!r}: expected every name to be a text"
            )
        _require_plain(name, value, where)
        state[name] = value.detach()
    if not state:
        raise CheckpointError(
            f"{where} holds no tensors (it has {_listed(left) if left else 'nothing'}): expected a state "
            "dict, that is names mapped to tensors; save model.state_dict()"
        )
    if left:
        notes.append(f"left out what is no tensor: {_listed(left)}")
    return state


def _require_plain(name: str, value: Tensor, where: str) -> None:
    """Refuse tensors without plain dense storage, naming the kind."""
    if value.is_quantized:
        kind = "quantised"
    elif value.is_nested:
        kind = "nested"
    elif value.layout is not torch.strided:
        kind = f"sparse ({str(value.layout).removeprefix('torch.')})"
    elif value.device.type != "cpu":
        kind = f"without values (on the device {value.device.type!r})"
    else:
        return
    raise CheckpointError(
        f"the tensor {name} of {where} is {kind}: only dense tensors are supported; convert it "
        "(.dequantize() or .to_dense()) and save the checkpoint anew"
    )


def _strip(state: State, wanted: frozenset[str] | None, notes: list[str]) -> State:
    """Take off prefixes that every name shares."""
    if (
        _AVERAGED in state
        and len(state) > 1
        and all(n.startswith("module.") for n in state if n != _AVERAGED)
    ):
        state = {name: tensor for name, tensor in state.items() if name != _AVERAGED}
        notes.append(f"left out {_AVERAGED}, the counter of an averaged model")
    versions = list(_stripped(state))
    if wanted is None:
        prefix, best = versions[-1]
    else:
        # max() keeps the first of equals, so nothing is taken off unless more names fit without it.
        prefix, best = max(versions, key=_fit(wanted))
    if prefix:
        notes.append(f"took the prefix {prefix!r} off every name")
    return best


def _stripped(state: State) -> Iterator[tuple[str, State]]:
    """The state dict as it is, and with one known prefix after the other taken off."""
    gone = ""
    yield gone, state
    while prefix := next((p for p in _PREFIXES if all(n.startswith(p) and n != p for n in state)), None):
        gone += prefix
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
        yield gone, state


def _fit(wanted: frozenset[str]) -> Callable[[tuple[str, State]], int]:
    return lambda version: sum(name in wanted for name in version[1])


def _listed(names: list[Any]) -> str:
    shown = ", ".join(str(name)[:60] for name in names[:_NAMED])
    return shown + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
