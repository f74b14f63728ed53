"""Products that are summed: linear maps, matrix products, convolutions, attention, look-ups.

One rule for all: the factor of a product may not depend on the index that is summed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from isthmus.symmetry.rescale.call import Call, Result, broadcasted, unknown
from isthmus.symmetry.rescale.charges import Charge, moved, permuted, reshaped, squashed
from isthmus.symmetry.rules.contraction import index_notation

_SUM = "the terms of a sum must have one factor"


def contract(call: Call, charges: Sequence[Charge], axes: Sequence[int]) -> Charge:
    """The charge of a product summed over axes, which are kept with size 1."""
    product = call.product(charges)
    gauges = [x.gauge for x in charges if x.gauge and x.gauge.parameter not in call.equations.gauged]
    product = replace(product, gauge=gauges[0] if gauges else None)
    return replace(squashed(call.along(product, axes, _SUM), axes), gauge=None)


def linear(call: Call) -> Result:
    """A linear map, x Wᵀ + b."""
    x, weight = call["input"], call["weight"]
    if len(weight.shape) == 1:
        weight = reshaped(weight, [1, *weight.shape])
    result = contract(call, [reshaped(x, [*x.shape[:-1], 1, x.shape[-1]]), weight], [-1])
    return _added(call, reshaped(result, call.shapes[0]), call["bias"])


def _added(call: Call, charge: Charge, bias: Charge | None) -> Charge:
    return charge if bias is None else call.spread(call.meet([charge, bias]))


def matrix_product(call: Call, first: Charge, second: Charge) -> Charge:
    """The matrix product over the last two axes."""
    left = reshaped(first, [*first.shape[:-1], 1, first.shape[-1]])
    order = [*range(len(second.shape) - 2), len(second.shape) - 1, len(second.shape) - 2]
    turned = permuted(second, order)
    right = reshaped(turned, [*turned.shape[:-2], 1, *turned.shape[-2:]])
    result = contract(call, [left, right], [-1])
    return reshaped(result, result.shape[:-1])


def matmul(call: Call) -> Result:
    """Matrix products of any rank; vectors count as rows on the left and columns on the right."""
    first, second = call.charges
    if len(first.shape) == 1:
        first = reshaped(first, [1, *first.shape])
    if len(second.shape) == 1:
        second = reshaped(second, [*second.shape, 1])
    return reshaped(matrix_product(call, first, second), call.shapes[0])


def add_matmul(call: Call) -> Result:
    """A matrix product with something added (addmm, baddbmm, addmv)."""
    added, first, second = call.charges
    vector = len(second.shape) == 1
    if vector:
        second = reshaped(second, [*second.shape, 1])
    result = matrix_product(call, first, second)
    result = reshaped(result, result.shape[:-1]) if vector else result
    if call.get("beta", 1) == 0:
        return result
    return call.spread(call.meet([added, result]))


def outer(call: Call) -> Result:
    """The outer product of two vectors."""
    first, second = call.charges
    return call.product([reshaped(first, [*first.shape, 1]), second])


def einsum(call: Call) -> Result:
    """Sums of products in index notation; one that repeats an index in one tensor has no rule."""
    terms, kept = index_notation(call["equation"], [len(charge.shape) for charge in call.charges])
    if any(len(set(term)) < len(term) for term in terms):
        return unknown(call)
    return _summed(call, call.charges, terms, kept)


def bilinear(call: Call) -> Result:
    """xᵀ W y + b, a number for every slice of W."""
    first, second, weight = call["input1"], call["input2"], call["weight"]
    dots = [str(number) for number in range(len(first.shape) - 1)]
    terms = [[*dots, "i"], ["o", "i", "j"], [*dots, "j"]]
    return _added(call, _summed(call, [first, weight, second], terms, [*dots, "o"]), call["bias"])


def _summed(
    call: Call, charges: Sequence[Charge], terms: Sequence[Sequence[str]], kept: Sequence[str]
) -> Charge:
    """The product of tensors whose axes are named, summed over all names that are not kept."""
    names = [*kept, *sorted({letter for term in terms for letter in term} - set(kept))]
    laid = [_laid_by_name(charge, term, names) for charge, term in zip(charges, terms, strict=True)]
    return reshaped(contract(call, laid, range(len(kept), len(names))), call.shapes[0])


def _laid_by_name(charge: Charge, term: Sequence[str], names: Sequence[str]) -> Charge:
    """The charge with its axes in the order of these names, size 1 for those that it has not."""
    turned = permuted(charge, [term.index(name) for name in names if name in term])
    return reshaped(turned, [charge.shape[term.index(n)] if n in term else 1 for n in names])


def convolution(call: Call) -> Result:
    """Convolutions of any rank, grouped ones too."""
    weight, groups = call["weight"], call["groups"]
    rows = reshaped(weight, [groups, weight.shape[0] // groups, *weight.shape[1:]])
    return _convolved(call, rows)


def transposed_convolution(call: Call) -> Result:
    """Its weight has the input's channels first."""
    weight, groups = call["weight"], call["groups"]
    rows = reshaped(weight, [groups, weight.shape[0] // groups, *weight.shape[1:]])
    return _convolved(call, permuted(rows, [0, 2, 1, *range(3, len(rows.shape))]))


def _convolved(call: Call, rows: Charge) -> Charge:
    """In the space (batch, group, output channel, input channel, places…).

    A kernel of one place is a linear map at every place; a larger one mixes places, which have one factor.
    """
    groups, outer, inner, *kernel = rows.shape
    rank, out = len(kernel), call.shapes[0]
    x = call["input"]
    x = x if len(x.shape) == rank + 2 else reshaped(x, [1, *x.shape])
    places = list(range(2, rank + 2))
    still = all(step == 1 for step in call["stride"]) and x.shape[2:] == out[-rank:]
    if any(size > 1 for size in kernel) or not still:
        x = squashed(call.along(x, places, "a kernel reads many places"), places)
    kernels = list(range(3, rank + 3))
    rows = squashed(call.along(rows, kernels, _SUM), kernels)
    x = reshaped(x, [x.shape[0], groups, 1, inner, *x.shape[2:]])
    y = contract(call, [x, rows], [3])
    y = reshaped(y, [y.shape[0], groups * outer, *y.shape[4:]])
    if call["bias"] is not None:
        y = call.meet([y, reshaped(call["bias"], [-1, *[1] * rank])])
    y = broadcasted(y, [x.shape[0], *out[-rank - 1 :]])
    return reshaped(y, out)


def attention(call: Call) -> Result:
    """softmax(q kᵀ + mask) v: the scores do not change, and all rows of v have the same factors."""
    query, key, value = call["query"], call["key"], call["value"]
    if call.get("enable_gqa") and len(query.shape) > 2:
        times = query.shape[-3] // key.shape[-3]
        key, value = (_repeated(charge, times) for charge in (key, value))
    query, key = (
        _first_of_tokens(call, charge, "the factors of q and k must cancel") for charge in (query, key)
    )
    call.still(call.product([query, key]), "the factors of q and k must cancel")
    call.still(call.get("attn_mask"), "no factor passes an exponential")
    return broadcasted(_first_of_tokens(call, value, _SUM), call.shapes[0])


def _first_of_tokens(call: Call, charge: Charge, reason: str) -> Charge:
    """The charge with size 1 along the axis of tokens, on which it does not depend."""
    return squashed(call.along(charge, [-2], reason), [-2])


def _repeated(charge: Charge, times: int) -> Charge:
    """Every head as often as query heads share it."""
    shape = [*charge.shape[:-3], charge.shape[-3] * times, *charge.shape[-2:]]
    return moved(charge, lambda t: t.repeat_interleave(times, -3), shape)


def embedding(call: Call) -> Result:
    """Rows of a table, looked up by data: all rows have the same factors."""
    table = call.along(call["weight"], [0], "rows are looked up by data")
    call.still(call["indices"], "it is used as an index")
    return call.spread(squashed(table, [0]))
