"""Weights are a vector space, a mapping, and exact."""

import math
import pickle

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from isthmus import Weights, combine
from isthmus.errors import LayoutError

DTYPES = [
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128,
    torch.float8_e4m3fn, torch.float8_e5m2,
]  # fmt: skip


class Mixed(nn.Module):
    """Every dtype at once, integer parameters, tied parameters, two kinds of buffers."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        for dtype in DTYPES:
            wide = torch.randn(3, 4, generator=generator, dtype=torch.float64)
            value = torch.complex(wide, wide.flip(0)).to(dtype) if dtype.is_complex else wide.to(dtype)
            setattr(self, "as_" + str(dtype).removeprefix("torch."), nn.Parameter(value, requires_grad=False))
        self.whole = nn.Parameter(torch.arange(5), requires_grad=False)
        self.scalar = nn.Parameter(torch.tensor(1.5))
        self.empty = nn.Parameter(torch.zeros(0, 3))
        self.one = nn.Linear(2, 2)
        self.two = nn.Linear(2, 2)
        self.two.weight = self.one.weight
        self.register_buffer("kept", torch.arange(4.0))
        self.register_buffer("flag", torch.tensor([True, False]))
        self.register_buffer("passing", torch.ones(2), persistent=False)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def test_to_module_is_exact_for_every_dtype() -> None:
    source, target = Mixed(), Mixed()
    with torch.no_grad():
        for tensor in (*target.parameters(), *target.buffers()):
            tensor.zero_()
    Weights.from_module(source).to_module(target)
    for (name, expected), got in zip(source.state_dict().items(), target.state_dict().values(), strict=True):
        assert got.dtype == expected.dtype, name
        assert torch.equal(bits(got), bits(expected)), name
    assert target.passing.sum() == 0, "a non-persistent buffer is the module's own affair"


@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_values_survive(dtype: torch.dtype) -> None:
    real = torch.empty(0, dtype=dtype).real.dtype if dtype.is_complex else dtype
    info = torch.finfo(real)
    extreme = torch.tensor([info.max, info.min, info.smallest_normal, info.eps, -0.0], dtype=torch.float64)
    module, other = nn.Module(), nn.Module()
    module.p = nn.Parameter(extreme.to(real).to(dtype), requires_grad=False)
    other.p = nn.Parameter(torch.zeros_like(module.p), requires_grad=False)
    Weights.from_module(module).to_module(other)
    assert torch.equal(bits(module.p), bits(other.p))


def test_named_tensors_are_views_of_one_vector() -> None:
    weights = Weights.from_module(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)))
    assert weights.vector.shape == (3 * 2 + 2 + 2 + 1,)
    for name in weights:
        assert weights[name].untyped_storage().data_ptr() == weights.vector.untyped_storage().data_ptr()
    assert_close(torch.cat([weights[name].reshape(-1) for name in weights]), weights.vector)


def test_tied_parameters_are_one_set_of_coordinates() -> None:
    weights = Weights.from_module(Mixed())
    assert list(weights).count("two.weight") == 0
    assert torch.equal(weights["two.weight"], weights["one.weight"])
    assert {"one.weight", "two.weight"} <= set(weights.state_dict())


def test_arithmetic_is_a_vector_space_and_drops_buffers() -> None:
    a = Weights.from_module(nn.BatchNorm1d(5).double())
    b = Weights(a.layout, torch.randn(10, dtype=torch.float64))
    assert_close((a + b - b).vector, a.vector)
    assert_close((2 * a).vector, (a + a).vector)
    assert_close((a * 3 / 3).vector, a.vector)
    assert_close((-a).vector, (a - 2 * a).vector)
    assert a.buffers
    assert not (a + b).buffers
    assert a.dot(b) == pytest.approx(float((a.vector * b.vector).sum()))
    assert a.distance(b) == pytest.approx((a - b).norm())
    assert a.cosine(2 * a) == pytest.approx(1)
    assert math.isnan(a.cosine(0 * a))


def test_combine_leaves_out_zero_coefficients() -> None:
    a = Weights.from_state_dict({"w": torch.tensor([-0.0, 1.0])})
    broken = Weights(a.layout, torch.tensor([math.nan, math.inf]))
    assert torch.equal(bits(combine((1, 0), (a, broken)).vector), bits(a.vector))


def test_other_architectures_are_refused_with_names() -> None:
    a, b = (Weights.from_module(nn.Linear(3, n)) for n in (2, 4))
    with pytest.raises(LayoutError, match=r"other shape: weight \(expected \[2, 3\], got \[4, 3\]\)"):
        a + b
    with pytest.raises(LayoutError, match=r"missing: 0\.weight, 0\.bias; unexpected: weight, bias"):
        a.to_module(nn.Sequential(nn.Linear(3, 2)))


def test_conform_sorts_by_name_and_fills_in_counters() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    reference = Weights.from_module(module)
    state = {k: v for k, v in reversed(module.state_dict().items()) if not k.endswith("num_batches_tracked")}
    found = Weights.from_state_dict(state).conform(reference)
    assert found.equal(reference)
    with pytest.raises(LayoutError, match=r"missing: 1\.running_var"):
        Weights.from_state_dict({k: v for k, v in state.items() if k != "1.running_var"}).conform(reference)


def test_lazy_and_sparse_parameters_are_refused() -> None:
    lazy = nn.LazyLinear(3)
    with pytest.raises(LayoutError, match="not initialised yet; run the model once"):
        Weights.from_module(lazy)


def test_digest_equality_and_pickling() -> None:
    weights = Weights.from_module(nn.BatchNorm1d(3))
    weights["weight"]  # what reading caches must not get in the way
    again = pickle.loads(pickle.dumps(weights))
    assert again.equal(weights)
    assert again.digest() == weights.digest()
    moved = weights.with_buffers({n: b + 1 for n, b in weights.buffers.items()})
    assert not moved.equal(weights)
    assert moved.digest() != weights.digest()
    assert weights.first_nonfinite() is None
    assert (weights * math.inf).first_nonfinite() == "weight"


def test_a_missing_name_says_what_there_is() -> None:
    with pytest.raises(KeyError, match="begin with weight, bias"):
        Weights.from_module(nn.Linear(2, 2))["wieght"]
