"""Recurrent layers: LSTM, GRU and plain ones, of several layers and directions.

What a layer computes at one time is a function of all times before it, read in order; so the input's times
are folded into one, and the step is taken until the units of the state stay the same. Every further step
would state the same facts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from isthmus.symmetry.labels import (
    Label,
    combine,
    constant,
    core,
    grid,
    in_order,
    pointwise,
    same_slots,
    varying,
)
from isthmus.symmetry.rules.call import Call, Result, moved, picked
from isthmus.symmetry.rules.contraction import affine
from isthmus.symmetry.rules.movement import join_parts

_ROUNDS = 4
_BATCHED = 3


class Cell(NamedTuple):
    """The parameters of one layer in one direction."""

    outer: Label
    inner: Label
    outer_bias: Label | None
    inner_bias: Label | None
    projection: Label | None


# (the call, input, state, parameters) -> the new state, the output first.
Step = Callable[[Call, Label, Sequence[Label], Cell], tuple[Label, ...]]


def lstm(call: Call) -> Result:
    """Long short-term memory; gates i, f, g, o are stacked along the weights' rows."""
    return _recurrent(call, _lstm_step, list(call["hx"]))


def gru(call: Call) -> Result:
    """Gated recurrent units; gates r, z, n are stacked along the weights' rows."""
    return _recurrent(call, _gru_step, [call["hx"]])


def plain(call: Call) -> Result:
    """Elman's network, with tanh or ReLU."""
    return _recurrent(call, _plain_step, [call["hx"]])


def _recurrent(call: Call, step: Step, start: Sequence[Label]) -> Result:
    """Layers one after the other, in one direction or two."""
    label: Label = call["input"]
    batch_first = bool(call["batch_first"]) and len(label.shape) == _BATCHED
    if len(label.shape) != _BATCHED or (call["train"] and call["dropout"]):
        raise ValueError("only batched sequences without dropout are followed")
    if batch_first:
        label = moved(label, lambda t: t.transpose(0, 1))
    weights = list(call["params"])
    directions = 2 if call["bidirectional"] else 1
    each = len(weights) // (call["num_layers"] * directions)
    biased = call["has_biases"]
    states: list[tuple[Label, ...]] = []
    for layer in range(call["num_layers"]):
        found = []
        for direction in range(directions):
            number = layer * directions + direction
            cell = _cell(weights[number * each : (number + 1) * each], biased)
            first = [_piece(call, state, number) for state in start]
            states.append(_settled_state(call, step, label, first, cell))
            found.append(_at_all_times(states[-1][0], label.shape[0], direction))
        label = found[0] if directions == 1 else _side_by_side(call, found)
    if batch_first:
        label = moved(label, lambda t: t.transpose(0, 1))
    last = [_stacked([state[number] for state in states]) for number in range(len(start))]
    return (label, *last)


def _cell(weights: Sequence[Label], biased: bool) -> Cell:
    """Input and recurrent weights, then their biases, then the projection, as far as they are there."""
    biases = weights[2:4] if biased else (None, None)
    rest = weights[4 if biased else 2 :]
    return Cell(weights[0], weights[1], biases[0], biases[1], rest[0] if rest else None)


def _piece(call: Call, state: Label, number: int) -> Label:
    """The initial state of one layer and direction, shape (1, batch, units)."""
    return picked(call.units, state, lambda t: t[number : number + 1], call.where)


def _settled_state(
    call: Call, step: Step, label: Label, state: Sequence[Label], cell: Cell
) -> tuple[Label, ...]:
    """The state after so many steps that its units stay the same."""
    seen = in_order(call.units, label, [0], call.where)
    current = tuple(state)
    for _ in range(_ROUNDS):
        new = step(call, seen, current, cell)
        if all(same_slots(one.slots, two.slots) for one, two in zip(new, current, strict=True)):
            return new
        current = new
    raise ValueError("the units of its state do not settle")


def _maps(call: Call, label: Label, hidden: Label, cell: Cell) -> tuple[Label, Label]:
    """The linear maps of the input and of the state."""
    outer = affine(call.units, label, cell.outer, cell.outer_bias, call.where)
    return outer, affine(call.units, hidden, cell.inner, cell.inner_bias, call.where)


def _lstm_step(call: Call, label: Label, state: Sequence[Label], cell: Cell) -> tuple[Label, ...]:
    """The input, forget and cell gates make the cell's state, the output gate and it the output."""
    hidden, memory = state
    gates = pointwise(call.units, _maps(call, label, hidden, cell), call.where)
    i, f, g, o = _gates(call, gates, 4)
    memory = pointwise(call.units, [f, memory, i, g], call.where)
    hidden = pointwise(call.units, [o, memory], call.where)
    if cell.projection is not None:
        hidden = affine(call.units, hidden, cell.projection, None, call.where)
    return hidden, memory


def _gru_step(call: Call, label: Label, state: Sequence[Label], cell: Cell) -> tuple[Label, ...]:
    """The three gates of input and state meet one another and the state."""
    (hidden,) = state
    outer, inner = _maps(call, label, hidden, cell)
    return (pointwise(call.units, [*_gates(call, outer, 3), *_gates(call, inner, 3), hidden], call.where),)


def _plain_step(call: Call, label: Label, state: Sequence[Label], cell: Cell) -> tuple[Label, ...]:
    """The sum of both maps."""
    return (pointwise(call.units, _maps(call, label, state[0], cell), call.where),)


def _gates(call: Call, label: Label, number: int) -> list[Label]:
    """The equal pieces along the last axis."""
    size = label.shape[-1] // number

    def piece(place: int, tensor: Tensor) -> Tensor:
        return tensor.narrow(-1, place * size, size)

    return [picked(call.units, label, partial(piece, place), call.where) for place in range(number)]


def _at_all_times(state: Label, times: int, direction: int) -> Label:
    """The output: the state at every time, each a position of its own."""
    shape = (times, *state.shape[1:])
    position = combine([state.position.expand(shape), grid(shape, [0]), constant(shape, direction)])
    return Label(tuple(slot.expand(shape) for slot in state.slots), position, "its times")


def _side_by_side(call: Call, labels: Sequence[Label]) -> Label:
    """The two directions' outputs, one after the other along the last axis."""
    shape = (*labels[0].shape[:-1], sum(label.shape[-1] for label in labels))
    return join_parts(call, labels, len(shape) - 1, shape)


def _stacked(labels: Sequence[Label]) -> Label:
    """States of several layers along a first axis; the units of each row are those of its layer."""
    number = len(labels)
    rows = [[slot for slot in label.slots if varying(slot) == {2}] for label in labels]
    others = [[slot for slot in label.slots if varying(slot) != {2}] for label in labels]
    shape = (number, *labels[0].shape[1:])
    if any(others) or any(len(row) > 1 for row in rows):
        raise ValueError("the units of its states lie along several axes")
    slots: tuple[Tensor, ...] = ()
    if any(rows):
        if not all(rows):
            raise ValueError("some of its states have units and some have none")
        vectors = torch.stack([core(row[0]).reshape(-1) for row in rows])
        slots = (vectors[:, None].expand(shape),)
    wide = torch.cat([core(label.position).expand(1, *shape[1:]) for label in labels])
    position = combine([wide, grid(shape, [0])])
    return Label(slots, position, "its layers")
