"""Running a module at any weights, without changing the user's module."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from conftest import Convolutional, random_weights
from isthmus.errors import LayoutError
from isthmus.network import Network
from isthmus.weights import Weights

X = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def snapshot(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def test_outputs_are_those_of_the_module_at_these_weights() -> None:
    module = Convolutional()
    network = Network(module)
    weights = random_weights(network.reference, 1).with_buffers(network.reference.buffers)
    twin = weights.to_module(Convolutional()).eval()
    with torch.no_grad(), network.at(weights) as bound:
        assert torch.equal(bound(X), twin(X))
    assert bound.conv.weight.data_ptr() != weights["conv.weight"].data_ptr()


def test_the_users_module_is_never_touched_and_ours_is_put_back_after_an_error() -> None:
    module = Convolutional()
    before = snapshot(module)
    network = Network(module)
    weights = random_weights(network.reference, 1)

    def failing() -> None:
        with network.at(weights) as bound:
            bound.train()
            bound(X)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    for name, value in before.items():
        assert torch.equal(module.state_dict()[name], value)
        assert torch.equal(network.module.state_dict()[name], value)
    assert module.training
    assert not network.module.training


def test_flat_gradients_are_those_of_autograd() -> None:
    network = Network(nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2)))
    vector = network.reference.vector.clone()
    start = torch.randn_like(vector)
    gradient = start.clone()
    x = torch.randn(3, 6)
    with network.bound(vector, gradient, {}) as binding:
        binding.module(x).square().sum().backward()
        binding.collect()
    twin = network.reference.to_module(nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2)))
    twin(x).square().sum().backward()
    expected = torch.cat([p.grad.reshape(-1) for p in twin.parameters()])
    assert_close(gradient - start, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_mixed_and_other_dtypes_run_and_give_gradients(dtype: torch.dtype) -> None:
    module = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2).to(dtype))
    module[0].register_forward_hook(lambda _m, _i, out: out.to(dtype))
    network = Network(module)
    vector, gradient = network.reference.vector.clone(), torch.zeros_like(network.reference.vector)
    x = torch.randn(3, 6)
    with network.bound(vector, gradient, {}) as binding:
        binding.load()
        binding.module(x).float().sum().backward()
        binding.collect()
    module(x).float().sum().backward()
    expected = torch.cat([p.grad.reshape(-1).to(gradient) for p in module.parameters()])
    assert_close(gradient, expected)
    assert gradient.abs().sum() > 0


def test_frozen_and_tied_parameters() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = module[0].weight
    module[0].bias.requires_grad_(False)
    network = Network(module)
    gradient = torch.ones_like(network.reference.vector)
    with network.bound(network.reference.vector.clone(), gradient, {}) as binding:
        binding.module(torch.ones(1, 3)).sum().backward()
        binding.collect()
    frozen = Weights(network.layout, gradient)["0.bias"]
    assert torch.equal(frozen, torch.zeros(3))
    assert len(network.frozen) == 1


def test_other_weights_are_refused() -> None:
    network = Network(nn.Linear(2, 2))
    other = Weights.from_module(nn.Linear(2, 3))
    with pytest.raises(LayoutError, match="do not fit Linear"), network.at(other):
        pass


def test_parts_that_the_user_froze_stay_in_evaluation_mode() -> None:
    module = Convolutional().train()
    module.bn.eval()
    network = Network(module)
    vector = network.reference.vector.clone()
    with network.bound(vector, torch.zeros_like(vector), {}) as binding:
        assert binding.module.training
        assert binding.module.drop.training
        assert not binding.module.bn.training
    all_off = Network(Convolutional().eval())
    with all_off.bound(vector, torch.zeros_like(vector), {}) as binding:
        assert binding.module.bn.training, "a model that was saved in evaluation mode is trained all the same"


def test_a_network_is_at_one_point_at_a_time() -> None:
    network = Network(nn.Linear(2, 2))
    with network.at(network.reference), pytest.raises(RuntimeError, match="use another Network"):  # noqa: SIM117
        with network.at(network.reference):
            pass
    with network.at(network.reference):
        pass


def test_buffers_that_no_checkpoint_holds_are_put_back() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)
            self.register_buffer("seen", torch.zeros(()), persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen += 1
            return self.layer(x) + self.seen

    network = Network(Counting())
    for _ in range(2):
        with torch.no_grad(), network.at(network.reference) as module:
            first = module(torch.zeros(1, 2))
            assert torch.equal(first, network.reference["layer.bias"][None] + 1)


def test_a_module_that_cannot_be_copied_is_refused() -> None:
    module = nn.Linear(2, 2)
    module.cache = module(torch.ones(1, 2))
    with pytest.raises(LayoutError, match="cannot be copied"):
        Network(module)


def test_a_network_on_another_device_leaves_alone_what_training_leaves_alone():
    """Batch norm that its owner keeps in evaluation mode stays so, though the network rests in it."""
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    net.train()
    net[1].eval()
    twin = Network(net).on("meta")
    flags = [twin._training[part] for part in twin.module.modules()]
    assert flags == [True, True, False]
    assert Network(net).on("cpu").device.type == "cpu"


def test_the_whole_gradient_has_frozen_parameters_in_it():
    net = nn.Linear(2, 1)
    net.weight.requires_grad_(False)
    network = Network(net)
    for whole in (False, True):
        vector, gradient = network.reference.vector.clone(), torch.zeros(3)
        with network.bound(vector, gradient, {}, whole) as binding:
            binding.module(torch.ones(1, 2)).sum().backward()
            binding.collect()
        assert gradient.tolist() == ([1.0, 1.0, 1.0] if whole else [0.0, 0.0, 1.0])
    assert not network.module.weight.requires_grad
