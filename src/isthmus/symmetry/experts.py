"""Mixtures of experts of the transformers library: the only file of this package that knows it.

Its experts run by default as grouped matrix products over tokens that are sorted by their expert. What an
expert computes does not depend on the way in which the tokens reach it; so, on the copy that is traced, every
expert reads every token and the router's weights, which are zero for all experts but the chosen ones, select.
On the copy that the proof runs, the experts are looped over, since grouped products know no float64.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

_DENSE = "isthmus_dense"
_LOOP = "eager"


@contextmanager
def dense_experts(module: nn.Module) -> Iterator[nn.Module]:
    """The module (a copy of the user's) with experts that read every token, for as long as this lasts."""
    if not _choose(module, _DENSE):
        yield module
        return
    functions = sys.modules["transformers.integrations.moe"].ALL_EXPERTS_FUNCTIONS
    functions.register(_DENSE, _every_expert)
    try:
        yield module
    finally:
        functions._global_mapping.pop(_DENSE, None)
        _choose(module, _LOOP)


def loop_over_experts(module: nn.Module) -> nn.Module:
    """The module (a copy of the user's) with experts that are called one after the other."""
    _choose(module, _LOOP)
    return module


def _choose(module: nn.Module, implementation: str) -> bool:
    """Set how experts run; whether the module has any that can be set."""
    if "transformers.integrations.moe" not in sys.modules:
        return False
    experts = [each for each in module.modules() if hasattr(each, "_is_expert_parallel")]
    for each in experts:
        config: Any = each.config
        config._experts_implementation = implementation
    return bool(experts)


def _every_expert(experts: Any, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """All experts on all tokens, summed with the router's weights; the arguments are those of transformers.

    Args:
        experts: the module that holds the experts' parameters, stacked along axis 0.
        hidden: shape (tokens, width).
        chosen: the numbers of the chosen experts, shape (tokens, k).
        weights: their weights, shape (tokens, k).
    """
    number = experts.down_proj.shape[0]
    routed = hidden.new_zeros(hidden.shape[0], number).scatter(1, chosen, weights.to(hidden.dtype))
    first = "gate_up_proj" if experts.has_gate else "up_proj"
    inner = _linear(experts, hidden.expand(number, *hidden.shape), first)
    inner = experts._apply_gate(inner) if experts.has_gate else experts.act_fn(inner)
    outer = _linear(experts, inner, "down_proj")
    if experts.has_post_expert_norm:
        outer = experts.post_expert_norm(outer)
    return (outer * routed.T.unsqueeze(-1)).sum(0).to(hidden.dtype)


def _linear(experts: Any, hidden: Tensor, name: str) -> Tensor:
    """A linear map of each expert, (experts, tokens, in) -> (experts, tokens, out)."""
    weight: Tensor = getattr(experts, name)
    result = hidden.bmm(weight if experts.is_transposed else weight.transpose(1, 2))
    return result + getattr(experts, f"{name}_bias").unsqueeze(1) if experts.has_bias else result
