"""Random programs: whatever rescalings are found for them, none may change what they compute.

The check is independent of `discover_rescalings(..., verify=True)`: elements are applied to the weights as a
user would apply them.
"""

from __future__ import annotations

import pytest
import torch

from isthmus.symmetry.rescale import discover_rescalings
from isthmus.weights import Weights
from test_symmetry_fuzz import Program

PROGRAMS = 20


@torch.no_grad()
@pytest.mark.parametrize("kind", ["positive", "sign"])
@pytest.mark.parametrize("seed", range(PROGRAMS))
def test_random_programs_are_sound(seed, kind):
    program = Program(seed)
    example = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(seed))
    group = discover_rescalings(program, example, kind=kind, verify=False)
    module, example = program.double(), example.double()
    weights = Weights.from_module(module)
    before = module(example).clone()
    for number in range(3 if group.dimension else 0):
        element = group.random(torch.Generator().manual_seed(number))
        after = element.apply(weights).to_module(module)(example)
        assert float((after - before).abs().max()) <= 1e-9 * float(before.abs().max()), program.plan


def test_many_random_programs_have_rescalings():
    """Otherwise the test above would prove nothing."""
    example = torch.zeros(2, 4, 6)
    found = [discover_rescalings(Program(s), example, kind="sign", verify=False).dimension for s in range(12)]
    assert sum(size > 0 for size in found) >= 8
