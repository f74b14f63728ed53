"""Records on disk: JSON for what a person may read, safetensors beside it for tensors.

A record is a frozen dataclass of numbers, strings, enumerations, tensors, tuples, dictionaries with string
keys and further records. It loads back equal, field by field, guided by its type hints.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from isthmus.atomic import write_bytes_atomic, write_text_atomic
from isthmus.errors import RunError

_TENSOR = "$tensor"
_INFINITIES = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}

Record = TypeVar("Record")


def write_record(record: object, path: Path) -> None:
    """Write a record as `path` (JSON) and, if it holds tensors, beside it with .safetensors at the end.

    Both files are written atomically, the JSON last: a record whose JSON is there is whole.
    """
    tensors: dict[str, Tensor] = {}
    body = _encode(record, "", tensors)
    document = {"record": type(record).__name__, "fields": body}
    if tensors:
        write_bytes_atomic(_beside(path), save(tensors))
    write_text_atomic(path, json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_record(path: Path, kind: type[Record]) -> Record:
    """Read back a record of this class.

    Raises:
        RunError: the file is missing, damaged, or holds another kind of record.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        found, body = document["record"], document["fields"]
        tensors = load_file(_beside(path)) if _beside(path).exists() else {}
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise RunError(
            f"{path} is not a readable record ({error}); delete it and run the command again"
        ) from error
    if found != kind.__name__:
        raise RunError(f"{path} holds the record {found}, expected {kind.__name__}")
    try:
        return cast(Record, _decode(body, kind, tensors))
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{path} and the tensors beside it do not make a {kind.__name__} ({error!r}); delete both and "
            "run the command again"
        ) from error


def plain(record: object) -> Any:
    """A record as plain JSON data, tensors as nested lists: what `--json` prints."""
    if isinstance(record, Tensor):
        return plain(record.tolist())
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {field.name: plain(getattr(record, field.name)) for field in dataclasses.fields(record)}
    if isinstance(record, Enum):
        return record.name
    if isinstance(record, Mapping):
        return {str(key): plain(value) for key, value in record.items()}
    if isinstance(record, (list, tuple)):
        return [plain(value) for value in record]
    if isinstance(record, float) and not math.isfinite(record):
        return None
    return record


def records_equal(one: object, two: object) -> bool:
    """Whether two records are the same to the last bit; NaN equals NaN."""
    if type(one) is not type(two):
        return False
    if isinstance(one, Tensor):
        assert isinstance(two, Tensor)
        same = one.dtype == two.dtype and one.shape == two.shape
        return same and bool(((one == two) | ((one != one) & (two != two))).all())
    if dataclasses.is_dataclass(one) and not isinstance(one, type):
        names = [field.name for field in dataclasses.fields(one)]
        return all(records_equal(getattr(one, n), getattr(two, n)) for n in names)
    if isinstance(one, Mapping):
        assert isinstance(two, Mapping)
        return one.keys() == two.keys() and all(records_equal(one[k], two[k]) for k in one)
    if isinstance(one, (list, tuple)):
        assert isinstance(two, (list, tuple))
        return len(one) == len(two) and all(records_equal(x, y) for x, y in zip(one, two, strict=True))
    return one == two or (isinstance(one, float) and math.isnan(one) and math.isnan(cast(float, two)))


def _beside(path: Path) -> Path:
    """Where a record's tensors are: a.json has a.json.safetensors, which is no checkpoint's name."""
    return path.with_name(path.name + ".safetensors")


def _encode(value: object, place: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[place] = value.detach().cpu().contiguous().clone()
        return {_TENSOR: place}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {n: _encode(getattr(value, n), f"{place}.{n}".lstrip("."), tensors) for n in names}
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, Mapping):
        return {str(k): _encode(v, f"{place}.{k}".lstrip("."), tensors) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode(v, f"{place}.{i}".lstrip("."), tensors) for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        return next(n for n, x in _INFINITIES.items() if x == value or (math.isnan(x) and math.isnan(value)))
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a record cannot hold a {type(value).__name__} (at {place})")


def _decode(body: Any, hint: Any, tensors: Mapping[str, Tensor]) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if isinstance(body, dict) and set(body) == {_TENSOR}:
        return tensors[body[_TENSOR]]
    if origin in (Union, types.UnionType):
        if body is None:
            return None
        return _decode(body, next(a for a in arguments if a is not type(None)), tensors)
    if origin is tuple:
        kinds = [arguments[0]] * len(body) if arguments[-1] is ... else list(arguments)
        return tuple(_decode(item, kind, tensors) for item, kind in zip(body, kinds, strict=True))
    if origin in (dict, Mapping):
        return {key: _decode(item, arguments[1], tensors) for key, item in body.items()}
    if origin is Literal or hint is Any:
        return body
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint[body]
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        hints = get_type_hints(hint)
        return hint(
            **{f.name: _decode(body[f.name], hints[f.name], tensors) for f in dataclasses.fields(hint)}
        )
    if hint is float:
        return _INFINITIES[body] if isinstance(body, str) else float(body)
    if hint is torch.Tensor:
        raise TypeError(f"expected a tensor, got {body!r}")
    return body
