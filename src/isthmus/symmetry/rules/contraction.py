"""Products that are summed: linear maps, matrix products, convolutions, attention, look-ups."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from isthmus.symmetry.labels import (
    Label,
    contract,
    grid,
    in_order,
    of_constant,
    pointwise,
    varying,
)
from isthmus.symmetry.rules.arithmetic import normalised
from isthmus.symmetry.rules.call import Call, Result, moved, picked, unknown
from isthmus.symmetry.units import Units


def linear(call: Call) -> Result:
    """A linear map, x Wᵀ + b."""
    return affine(call.units, call["input"], call["weight"], call["bias"], call.where)


def affine(units: Units, label: Label, weight: Label, bias: Label | None, where: str) -> Label:
    """A linear map over the last axis."""
    x = moved(label, lambda t: t.unsqueeze(-2))
    result = moved(contract(units, [x, weight], [-1], where), lambda t: t.squeeze(-1))
    return result if bias is None else pointwise(units, [result, bias], where)


def product(units: Units, first: Label, second: Label, where: str) -> Label:
    """The matrix product over the last two axes."""
    left = moved(first, lambda t: t.unsqueeze(-2))
    right = moved(second, lambda t: t.transpose(-1, -2).unsqueeze(-3))
    return moved(contract(units, [left, right], [-1], where), lambda t: t.squeeze(-1))


def matmul(call: Call) -> Result:
    """Matrix products of any rank; vectors count as rows on the left and columns on the right."""
    first, second = call.labels
    if len(first.shape) == 1:
        first = moved(first, lambda t: t.unsqueeze(0))
    if len(second.shape) == 1:
        second = moved(second, lambda t: t.unsqueeze(1))
    result = product(call.units, first, second, call.where)
    return moved(result, lambda t: t.reshape(call.shapes[0]))


def add_matmul(call: Call) -> Result:
    """A matrix product with something added (addmm, baddbmm, addmv)."""
    added, first, second = call.labels
    vector = len(second.shape) == 1
    if vector:
        second = moved(second, lambda t: t.unsqueeze(1))
    result = product(call.units, first, second, call.where)
    result = moved(result, lambda t: t.squeeze(-1)) if vector else result
    return pointwise(call.units, [added, result], call.where)


def outer(call: Call) -> Result:
    """The outer product of two vectors."""
    first, second = call.labels
    sides = [moved(first, lambda t: t.unsqueeze(1)), moved(second, lambda t: t.unsqueeze(0))]
    return pointwise(call.units, sides, call.where)


def einsum(call: Call) -> Result:
    """Sums of products in index notation; one that repeats an index in one tensor has no rule."""
    terms, kept = index_notation(call["equation"], [len(label.shape) for label in call.labels])
    if any(len(set(term)) < len(term) for term in terms):
        return unknown(call)
    return _summed(call, call.labels, terms, kept)


def index_notation(equation: str, ranks: Sequence[int]) -> tuple[list[list[str]], list[str]]:
    """The indices of each tensor of an einsum, and those of its result; an ellipsis is spelled out."""
    inputs, arrow, result = equation.replace(" ", "").partition("->")
    terms = [_spelled(term, rank) for term, rank in zip(inputs.split(","), ranks, strict=True)]
    letters = [letter for term in terms for letter in term]
    dots = sorted({letter for letter in letters if letter.isdigit()})
    single = dots + sorted(x for x in set(letters) - set(dots) if letters.count(x) == 1)
    return terms, list(result.replace("...", "".join(dots))) if arrow else single


def bilinear(call: Call) -> Result:
    """xᵀ W y + b, a number for every slice of W."""
    first, second, weight = call["input1"], call["input2"], call["weight"]
    dots = [str(number) for number in range(len(first.shape) - 1)]
    terms = [[*dots, "i"], ["o", "i", "j"], [*dots, "j"]]
    result = _summed(call, [first, weight, second], terms, [*dots, "o"])
    return result if call["bias"] is None else pointwise(call.units, [result, call["bias"]], call.where)


def _spelled(term: str, rank: int) -> list[str]:
    """The indices of one tensor; those that an ellipsis stands for are digits, counted from the right."""
    before, dots, after = term.partition("...")
    number = rank - len(before) - len(after) if dots else 0
    return [*before, *(chr(ord("9") - n) for n in reversed(range(number))), *after]


def _summed(
    call: Call, labels: Sequence[Label], terms: Sequence[Sequence[str]], kept: Sequence[str]
) -> Label:
    """The product of tensors whose axes are named, summed over all names that are not kept."""
    gone = sorted({letter for term in terms for letter in term} - set(kept))
    names = [*kept, *gone]
    laid = [_laid_by_name(label, term, names) for label, term in zip(labels, terms, strict=True)]
    if not gone:
        return pointwise(call.units, laid, call.where)
    product = contract(call.units, laid, range(len(kept), len(names)), call.where)
    return moved(product, lambda t: t.reshape(t.shape[: len(kept)]))


def _laid_by_name(label: Label, term: Sequence[str], names: Sequence[str]) -> Label:
    """The label with its axes in the order of these names, size 1 for those that it has not."""
    order = [term.index(name) for name in names if name in term]
    sizes = [label.shape[term.index(name)] if name in term else 1 for name in names]
    return moved(label, lambda t: t.permute(order).reshape(sizes))


def convolution(call: Call) -> Result:
    """Convolutions of any rank, grouped ones too."""
    x, weight = call["input"], call["weight"]
    groups, rank = call["groups"], len(weight.shape) - 2
    plain = all(k == 1 for k in weight.shape[2:]) and _all(call["padding"], 0)
    batched = len(x.shape) == rank + 2
    x = x if batched else moved(x, lambda t: t.unsqueeze(0))
    rows = moved(weight, lambda t: t.reshape(groups, t.shape[0] // groups, *t.shape[1:]))
    if plain:
        strides = [slice(None), slice(None), *(slice(None, None, s) for s in _each(call["stride"], rank))]
        x = picked(call.units, x, lambda t: t[tuple(strides)], call.where)
    return _convolved(call, x, rows, plain, batched)


def transposed_convolution(call: Call) -> Result:
    """Its weight has the input's channels first."""
    x, weight = call["input"], call["weight"]
    groups, rank = call["groups"], len(weight.shape) - 2
    batched = len(x.shape) == rank + 2
    x = x if batched else moved(x, lambda t: t.unsqueeze(0))
    rows = moved(weight, lambda t: t.reshape(groups, t.shape[0] // groups, *t.shape[1:]).transpose(1, 2))
    return _convolved(call, x, rows, False, batched)


def _convolved(call: Call, x: Label, rows: Label, plain: bool, batched: bool) -> Label:
    """Join in the space (batch, group, output channel, places…, input channel, kernel…), then reduce.

    A kernel of one place is a linear map at every place, and the places may themselves be hidden units. A
    larger one reads places in order: units along them are pinned, every place of the kernel and of the
    result is a position of its own.
    """
    groups, _, inner, *kernel = rows.shape
    rank = len(kernel)
    out = call.shapes[0][-rank:]
    x = moved(x, lambda t: t.reshape(t.shape[0], groups, inner, *t.shape[2:]))
    extra = [] if plain else [_result_places(out, rank), _kernel_places(kernel)]
    if not plain:
        x = in_order(call.units, x, range(3, 3 + rank), call.where)
    # x to (batch, group, 1, places…, inner, 1…); weight to (group, outer, 1…, inner, kernel…).
    x = moved(x, lambda t: t.movedim(2, -1).unsqueeze(2).reshape(*_laid(t.shape, rank)))
    rows = moved(rows, lambda t: t.reshape(*t.shape[:2], *[1] * rank, *t.shape[2:]))
    y = contract(call.units, [x, rows, *extra], range(-1 - rank, 0), call.where)
    y = moved(y, lambda t: t.reshape(t.shape[0], t.shape[1] * t.shape[2], *out))
    y = y if batched else moved(y, lambda t: t.squeeze(0))
    if call["bias"] is None:
        return y
    return pointwise(call.units, [y, moved(call["bias"], lambda t: t.view(-1, *[1] * rank))], call.where)


def _laid(shape: Sequence[int], rank: int) -> list[int]:
    """The shape of x in the joint space, from (batch, group, inner, places…)."""
    batch, groups, inner, *places = shape
    return [batch, groups, 1, *places, inner, *[1] * rank]


def _result_places(out: Sequence[int], rank: int) -> Label:
    """Every place of the result, laid along the place axes of the joint space."""
    shape = [1, 1, 1, *out, 1, *[1] * rank]
    return Label((), grid(shape, range(3, 3 + rank)), "their places")


def _kernel_places(kernel: Sequence[int]) -> Label:
    """Every place of the kernel, laid along the last axes."""
    return Label((), grid(kernel, range(len(kernel))), "their places in the kernel")


def attention(call: Call) -> Result:
    """softmax(q kᵀ + mask) v.

    Where no units lie along the tokens, keys, values and the mask are read in order first: then nothing of
    the size tokens × tokens is formed.
    """
    units, where, mask = call.units, call.where, call["attn_mask"]
    query, key, value = call["query"], call["key"], call["value"]
    if call.get("enable_gqa") and len(query.shape) > 2:
        times = query.shape[-3] // key.shape[-3]
        key, value = (moved(x, lambda t: t.repeat_interleave(times, -3)) for x in (key, value))
    if call["is_causal"]:
        lower = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
        mask = of_constant(lower, "the causal mask")
    if not any(_along_tokens(label) for label in (query, key, value)) and not (mask and mask.slots):
        key, value = (in_order(units, label, [len(label.shape) - 2], where) for label in (key, value))
        mask = mask and in_order(units, mask, [len(mask.shape) - 1], where)
    scores = product(units, query, moved(key, lambda t: t.transpose(-1, -2)), where)
    scores = scores if mask is None else pointwise(units, [scores, mask], where)
    scores = normalised(units, scores, [len(scores.shape) - 1], where)
    return product(units, scores, value, where)


def _along_tokens(label: Label) -> bool:
    return any(len(label.shape) - 2 in varying(slot) for slot in label.slots)


def _each(value: Sequence[int], rank: int) -> list[int]:
    """A setting given once or once an axis."""
    return list(value) * rank if len(value) == 1 else list(value)


def _all(value: Sequence[int] | str, wanted: int) -> bool:
    """Whether a padding is this number everywhere; for a kernel of one place `same` pads nothing."""
    return isinstance(value, str) or all(item == wanted for item in value)
