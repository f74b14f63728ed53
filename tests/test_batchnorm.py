"""Batch-norm recalibration: exact over samples, and it leaves everything as it was."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from conftest import Convolutional
from isthmus.errors import DataError
from isthmus.repair.batchnorm import batchnorm_layers, recalibrate

X = torch.randn(23, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 3 + 1


def run(module: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return module(batch)


@pytest.mark.parametrize("sizes", [[23], [10, 10, 3], [2, 19, 2]])
def test_first_layer_statistics_are_those_of_all_samples_together(sizes: list[int]) -> None:
    module = Convolutional()
    found = recalibrate(module, X.split(sizes), run)
    inputs = module.conv(X).detach().double()
    assert_close(found["bn.running_mean"].double(), inputs.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
    assert_close(found["bn.running_var"].double(), inputs.var((0, 2, 3)), rtol=1e-5, atol=1e-6)


def test_the_equal_weighting_of_batches_would_be_wrong_here() -> None:
    """What `torch.optim.swa_utils.update_bn` computes on unequal batches is measurably something else."""
    module = Convolutional()
    torch.optim.swa_utils.update_bn([X[:20], X[20:]], module)
    theirs = module.bn.running_var.clone()
    ours = recalibrate(module, [X[:20], X[20:]], run)["bn.running_var"]
    true = module.conv(X).detach().var((0, 2, 3))
    assert (ours - true).abs().max() < 1e-4
    assert (theirs - true).abs().max() > 1e-2


def test_the_module_is_left_as_it_was() -> None:
    module = Convolutional()
    module.train()
    module.drop.eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    recalibrate(module, [X], run)
    for name, value in before.items():
        assert torch.equal(module.state_dict()[name], value), name
    assert module.training
    assert module.bn.training
    assert not module.drop.training
    assert module.bn.momentum == 0.1


def test_the_module_is_left_as_it_was_after_an_exception() -> None:
    module = Convolutional().eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}

    def batches():
        yield X
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        recalibrate(module, batches(), run)
    for name, value in before.items():
        assert torch.equal(module.state_dict()[name], value), name
    assert not module.bn.training
    assert not module.bn._forward_hooks


def test_dropout_stays_off() -> None:
    module = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm2d(1))
    found = recalibrate(module, [X], run)
    assert_close(found["1.running_mean"], X.mean().reshape(1))


def test_later_layers_see_normalised_inputs() -> None:
    module = nn.Sequential(nn.BatchNorm2d(1), nn.BatchNorm2d(1))
    found = recalibrate(module, [X], run)
    assert_close(found["1.running_mean"], torch.zeros(1), atol=1e-5, rtol=0)
    assert_close(found["1.running_var"], torch.ones(1), atol=1e-2, rtol=0)


def test_no_examples_or_one_value_a_channel_are_refused() -> None:
    with pytest.raises(DataError, match="at least one training example"):
        recalibrate(Convolutional(), [], run)
    with pytest.raises(DataError, match="more than one value a channel"):
        recalibrate(nn.Sequential(nn.BatchNorm1d(3)), [torch.ones(1, 3)], run)
    assert recalibrate(nn.Linear(2, 2), [], run) == {}
    assert batchnorm_layers(nn.BatchNorm1d(3, track_running_stats=False)) == {}


def test_statistics_of_a_network_in_double_precision_are_those_of_all_batches():
    """A float64 buffer must not be taken for a copy of itself: the next batch would overwrite it."""
    net = torch.nn.Sequential(torch.nn.BatchNorm1d(3)).double()
    data = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 2
    found = recalibrate(net, torch.split(data, 10), lambda module, batch: module(batch))
    torch.testing.assert_close(found["0.running_mean"], data.mean(0))
    torch.testing.assert_close(found["0.running_var"], data.var(0))
