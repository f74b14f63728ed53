"""A small zoo of networks, each with the order of its symmetry group written out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isthmus.symmetry import Symmetry, discover


def log2_factorial(n: int) -> float:
    return math.lgamma(n + 1) / math.log(2)


L = log2_factorial


@dataclass(frozen=True)
class Integers:
    """An example input of random integers from 0 to `below` - 1: tokens or classes."""

    shape: tuple[int, ...]
    below: int


@dataclass(frozen=True)
class Joined:
    """Axes of parameters that one axis of units must carry, itself or through the axes below it.

    Attributes:
        places: such as "conv1.weight[0] bn1.running_mean[0] conv2.weight[1]".
        size: how many units the axis has.
        within: how many units its parent has, 0 for no parent; None asks nothing.
    """

    places: str
    size: int
    within: int | None = None


@dataclass(frozen=True, eq=False)
class Case:
    """An architecture, example inputs, and log2 of the number of its symmetries.

    Attributes:
        name: what tests call it.
        build: makes the module.
        inputs: a shape (normal numbers), `Integers`, a tensor, or a tuple or dict of these.
        log2_order: worked out by hand from the architecture.
        outputs: the outputs whose values must stay; None for all.
        joined: which parameter axes must move together.
        needs: the module that must be installed; empty for none.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Any
    log2_order: float
    outputs: tuple[str | int, ...] | None = None
    joined: tuple[Joined, ...] = ()
    needs: str = ""

    def module(self, seed: int = 0) -> nn.Module:
        """The network with weights in general position: nothing zero, nothing constant."""
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            module = self.build()
        with torch.no_grad():
            for parameter in module.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.1 * noise)
            for name, buffer in module.named_buffers():
                if name.endswith("running_mean"):
                    buffer.copy_(0.3 * torch.randn(buffer.shape, generator=generator))
                if name.endswith("running_var"):
                    buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
        return module.eval()

    def example(self, seed: int = 1) -> Any:
        """Random example inputs."""
        return _drawn(self.inputs, torch.Generator().manual_seed(seed))


def _drawn(inputs: Any, generator: torch.Generator) -> Any:
    if isinstance(inputs, Tensor):
        return inputs
    if isinstance(inputs, Integers):
        return torch.randint(inputs.below, inputs.shape, generator=generator)
    if isinstance(inputs, dict):
        return {name: _drawn(item, generator) for name, item in inputs.items()}
    if all(isinstance(size, int) for size in inputs):
        return torch.randn(inputs, generator=generator)
    return tuple(_drawn(item, generator) for item in inputs)


class Calls(nn.Module):
    """Submodules and a forward function written side by side."""

    def __init__(self, forward: Callable[..., object], **modules: nn.Module):
        super().__init__()
        self._forward = forward
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, *args, **kwargs):
        return self._forward(self, *args, **kwargs)


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(7, 16),
        nn.ReLU(),
        nn.Linear(16, 12),
        nn.GELU(),
        nn.Dropout(0.3),
        nn.Linear(12, 5),
        nn.Softmax(-1),
    )


def cnn_flatten() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3), nn.SiLU(inplace=True), nn.Flatten(), nn.Linear(32, 9), nn.Tanh(), nn.Linear(9, 4),
    )  # fmt: skip


def vgg() -> nn.Module:
    layers: list[nn.Module] = []
    channels = 3
    for width in (6, 0, 8, 0, 10, 10, 0):
        if not width:
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        channels = width
    head = [nn.Flatten(), nn.Linear(10, 12), nn.ReLU(), nn.Dropout(), nn.Linear(12, 4)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), *head)


class Basic(nn.Module):
    """A residual block with a projection shortcut, or CIFAR's option A, which has no parameters."""

    def __init__(self, inner: int, outer: int, stride: int, option: str):
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.pad = outer // 4 if stride > 1 and option == "A" else None
        self.shortcut = nn.Identity()
        if stride > 1 and option == "B":
            self.shortcut = nn.Sequential(
                nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.pad is not None:
            return F.relu(y + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad), "constant", 0))
        y += self.shortcut(x)
        return F.relu(y)


class ResNet(nn.Module):
    """CIFAR ResNet of depth 6 n + 2."""

    def __init__(self, width: int, blocks: int, option: str):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        layers, channels = [], width
        for stage in range(3):
            for block in range(blocks):
                outer = width * 2**stage
                layers.append(Basic(channels, outer, 2 if stage and not block else 1, option))
                channels = outer
        self.layers = nn.Sequential(*layers)
        self.linear = nn.Linear(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(F.relu(self.bn1(self.conv1(x))))
        return self.linear(F.avg_pool2d(x, x.shape[3]).view(x.shape[0], -1))


def group_norm() -> nn.Module:
    def forward(m, x):
        x = F.relu(m.norm(m.conv(x)))
        x = x + m.norm2(m.conv2(x))
        return m.head(m.norm3(m.conv3(F.relu(x))).mean((2, 3)))

    return Calls(
        forward,
        conv=nn.Conv2d(3, 8, 3), norm=nn.GroupNorm(4, 8), conv2=nn.Conv2d(8, 8, 3, padding=1),
        norm2=nn.GroupNorm(4, 8), conv3=nn.Conv2d(8, 12, 3), norm3=nn.GroupNorm(3, 12), head=nn.Linear(12, 4),
    )  # fmt: skip


def layer_norm_mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(7, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 12), nn.RMSNorm(12), nn.Linear(12, 5)
    )


def inverted_bottleneck() -> nn.Module:
    def forward(m, x):
        x = m.stem(x)
        y = m.project(F.hardswish(m.depth(F.relu6(m.expand(x)))))
        y = y * torch.sigmoid(m.up(F.relu(m.down(y.mean((2, 3), keepdim=True)))))
        return m.head((x + y).mean((2, 3)))

    return Calls(
        forward,
        stem=nn.Conv2d(3, 6, 3), expand=nn.Conv2d(6, 12, 1), depth=nn.Conv2d(12, 12, 3, padding=1, groups=12),
        project=nn.Conv2d(12, 6, 1), down=nn.Conv2d(6, 3, 1), up=nn.Conv2d(3, 6, 1), head=nn.Linear(6, 4),
    )  # fmt: skip


def grouped_convolution() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, groups=4), nn.BatchNorm2d(12),
        nn.ReLU(), nn.Conv2d(12, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


def depth_multiplier() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 12, 3, groups=6), nn.ReLU(), nn.Conv2d(12, 5, 1),
        nn.Flatten(),
    )  # fmt: skip


def tied_autoencoder() -> nn.Module:
    def forward(m, x):
        return F.linear(torch.tanh(m.encode(x)), m.encode.weight.t(), m.out)

    module = Calls(forward, encode=nn.Linear(7, 10))
    module.out = nn.Parameter(torch.randn(7))
    return module


def shared_module() -> nn.Module:
    shared = nn.Linear(10, 10)
    norm = nn.BatchNorm1d(10)
    return nn.Sequential(nn.Linear(7, 10), nn.ReLU(), shared, norm, nn.Tanh(), shared, norm, nn.Linear(10, 4))


def tied_parameter() -> nn.Module:
    module = nn.Sequential(
        nn.Linear(7, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 3)
    )
    module[4].weight = module[2].weight
    return module


def dense() -> nn.Module:
    def forward(m, x):
        x = m.stem(x)
        for block in (m.one, m.two):
            x = torch.cat([x, block(x)], 1)
        return m.head(F.adaptive_avg_pool2d(x, 1).flatten(1))

    def block(inner: int, outer: int) -> nn.Module:
        return nn.Sequential(nn.BatchNorm2d(inner), nn.ReLU(), nn.Conv2d(inner, outer, 3, padding=1))

    return Calls(forward, stem=nn.Conv2d(3, 6, 3), one=block(6, 4), two=block(10, 5), head=nn.Linear(15, 4))


def gated() -> nn.Module:
    def forward(m, x):
        gate, value = m.up(x).chunk(2, -1)
        return m.down(F.silu(gate) * value)

    return Calls(forward, up=nn.Linear(7, 20), down=nn.Linear(10, 4))


def recurrent() -> nn.Module:
    def forward(m, x):
        h = x.new_zeros(x.shape[0], 8)
        for step in range(3):
            h = torch.tanh(m.enter(x[:, step]) + m.turn(h))
        return m.leave(h)

    return Calls(forward, enter=nn.Linear(5, 8), turn=nn.Linear(8, 8, bias=False), leave=nn.Linear(8, 3))


def attention() -> nn.Module:
    def forward(m, x):
        x = m.embed(x)
        q, k, v = (m(x).unflatten(-1, (3, 4)).transpose(1, 2) for m in (m.q, m.k, m.v))
        y = F.scaled_dot_product_attention(q, k, v)
        return m.head(x + m.o(y.transpose(1, 2).flatten(2)))

    return Calls(
        forward,
        embed=nn.Linear(5, 6), q=nn.Linear(6, 12), k=nn.Linear(6, 12), v=nn.Linear(6, 12), o=nn.Linear(12, 6),
        head=nn.Linear(6, 4),
    )  # fmt: skip


def conv1d() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(4, 6, 3, padding=1), nn.InstanceNorm1d(6, affine=True), nn.PReLU(6), nn.AvgPool1d(2),
        nn.ConvTranspose1d(6, 8, 2, stride=2), nn.LeakyReLU(), nn.Flatten(), nn.Linear(8 * 8, 3),
    )  # fmt: skip


def mixed_pinning() -> nn.Module:
    def forward(m, x):
        h = m.one(x)
        return m.two(torch.cat([x, F.relu(h)], 1))

    return Calls(forward, one=nn.Linear(4, 6), two=nn.Linear(10, 3))


def permuted_layout() -> nn.Module:
    def forward(m, x):
        y = m.conv(x).permute(0, 2, 3, 1)
        y = m.norm(y) * m.scale.expand(1, 1, 1, 6)
        y = F.gelu(m.up(y)).reshape(x.shape[0], -1, 10).transpose(1, 2)
        return m.head(y.amax(-1))

    module = Calls(
        forward, conv=nn.Conv2d(3, 6, 3), norm=nn.LayerNorm(6), up=nn.Linear(6, 10), head=nn.Linear(10, 3)
    )
    module.scale = nn.Parameter(torch.ones(6))
    return module


ZOO = (
    Case("mlp", mlp, (3, 7), L(16) + L(12)),
    Case("cnn_flatten", cnn_flatten, (2, 3, 8, 8), L(6) + L(8) + L(9)),
    Case("vgg", vgg, (2, 3, 8, 8), L(6) + L(8) + 2 * L(10) + L(12)),
    Case(
        "resnet_projection", lambda: ResNet(4, 2, "B"), (2, 3, 8, 8),
        3 * L(4) + 3 * L(8) + 3 * L(16),
    ),
    # The zero-padded half of a wider stage is new: its units are free among themselves.
    Case(
        "resnet_option_a", lambda: ResNet(4, 2, "A"), (2, 3, 8, 8),
        L(4) + L(4) + L(8) + 2 * (L(4) + L(8) + L(16)),
    ),
    Case("group_norm", group_norm, (2, 3, 9, 9), L(4) + 4 * L(2) + L(3) + 3 * L(4)),
    Case("layer_norm_mlp", layer_norm_mlp, (3, 7), L(16) + L(12)),
    Case("inverted_bottleneck", inverted_bottleneck, (2, 3, 7, 7), L(6) + L(12) + L(3)),
    Case("grouped_convolution", grouped_convolution, (2, 3, 6, 6), L(4) + 4 * L(2) + 4 * L(3)),
    Case("depth_multiplier", depth_multiplier, (2, 3, 3, 3), L(6) + 6 * L(2)),
    Case("tied_autoencoder", tied_autoencoder, (3, 7), L(10)),
    Case("shared_module", shared_module, (3, 7), L(10)),
    Case("tied_parameter", tied_parameter, (3, 7), L(8)),
    Case("dense", dense, (2, 3, 7, 7), L(6) + L(4) + L(5)),
    Case("gated", gated, (3, 7), L(10)),
    Case("recurrent", recurrent, (2, 3, 5), L(8)),
    Case("attention", attention, (2, 5, 5), L(6) + L(3) + 2 * 3 * L(4)),
    Case("conv1d", conv1d, (2, 4, 8), L(6) + L(8)),
    Case("mixed_pinning", mixed_pinning, (3, 4), L(6)),
    Case("permuted_layout", permuted_layout, (2, 3, 6, 6), L(6) + L(10)),
)  # fmt: skip

CASES = {case.name: case for case in ZOO}
each_case = pytest.mark.parametrize("name", CASES)


@cache
def symmetry_of(case: Case) -> Symmetry:
    """The symmetry of a case, found once a process."""
    return discover(case.module(), case.example(), case.outputs)


def found(name: str) -> Symmetry:
    """The symmetry of the case of this name."""
    return symmetry_of(CASES[name])
