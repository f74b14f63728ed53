"""The networks of the ready-made tasks. Names of parameters follow the published implementations."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from isthmus.errors import SettingError

# Simonyan & Zisserman 2015, configuration D; 0 stands for a pooling layer.
_VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)


class MLP(nn.Sequential):
    """Flatten, then linear layers with ReLU between them.

    Args:
        sizes: numbers of units from the input to the output.

    Example:
        >>> [name for name, _ in MLP((4, 8, 2)).named_parameters()]
        ['1.weight', '1.bias', '3.weight', '3.bias']
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        layers: list[nn.Module] = [nn.Flatten()]
        for incoming, outgoing in pairwise(sizes):
            layers += [nn.Linear(incoming, outgoing), nn.ReLU()]
        super().__init__(*layers[:-1])


class LeNet5(nn.Module):
    """LeNet-5 for 28 × 28 grey images: two convolutions, three linear layers; ReLU and maximum pooling.

    The original has squashing units and trained subsampling; these are today's replacements. (Frankle's
    "LeNet" is another network, the perceptron 784-300-100-10.)

    Source: LeCun, Bottou, Bengio, Haffner 1998, figure 2.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Scores of shape (batch, classes) for images of shape (batch, 1, 28, 28)."""
        hidden = functional.max_pool2d(functional.relu(self.conv1(images)), 2)
        hidden = functional.max_pool2d(functional.relu(self.conv2(hidden)), 2)
        hidden = functional.relu(self.fc1(hidden.flatten(1)))
        return self.fc3(functional.relu(self.fc2(hidden)))  # type: ignore[no-any-return]


class ConvNet(nn.Sequential):
    """Three 3 × 3 convolutions with batch norm and ReLU, each halving the image; flatten; one linear layer.

    Args:
        side: height and width of the grey images, a multiple of 4.
        width: channels of the first convolution; the others have twice as many.
        classes: number of scores.
    """

    def __init__(self, side: int, width: int, classes: int = 10) -> None:
        layers: list[nn.Module] = []
        channels = (1, width, 2 * width, 2 * width)
        for incoming, outgoing in pairwise(channels):
            layers += [
                nn.Conv2d(incoming, outgoing, 3, padding=1, bias=False),
                nn.BatchNorm2d(outgoing),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
        # The last pooling is left out: it would cost small images their last pixels.
        layers[-1:] = [nn.Flatten(), nn.Linear(2 * width * (side // 4) ** 2, classes)]
        super().__init__(*layers)


class ResidualBlock(nn.Module):
    """Two convolutions with batch norm beside a shortcut without parameters (option A).

    Where the shape changes, the shortcut takes every second pixel and pads the new channels with zeros,
    half of them on each side.
    """

    def __init__(self, incoming: int, outgoing: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(incoming, outgoing, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outgoing)
        self.conv2 = nn.Conv2d(outgoing, outgoing, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outgoing)
        self.stride = stride
        self.padding = (outgoing - incoming) // 2

    def forward(self, images: Tensor) -> Tensor:
        """Features of shape (batch, outgoing, height / stride, width / stride)."""
        hidden = functional.relu(self.bn1(self.conv1(images)))
        hidden = self.bn2(self.conv2(hidden))
        shortcut = images
        if self.stride != 1 or self.padding:
            shortcut = images[:, :, :: self.stride, :: self.stride]
            shortcut = functional.pad(shortcut, (0, 0, 0, 0, self.padding, self.padding))
        return functional.relu(hidden + shortcut)


class ResNet(nn.Module):
    """The CIFAR ResNet: depth 6n + 2, three stages of n blocks, option A shortcuts.

    Args:
        depth: 20, 32, 44, 56, 110, …
        width: channels of the first stage, an even number; the later stages have two and four times as many.
        classes: number of scores.

    Raises:
        SettingError: no such depth or width.

    Source: He, Zhang, Ren, Sun 2015 (arXiv 1512.03385), section 4.2; names of parameters and initialisation
    of akamaster/pytorch_resnet_cifar10, so that checkpoints trained with that code load.

    Example:
        >>> sum(p.numel() for p in ResNet(20).parameters())
        269722
    """

    def __init__(self, depth: int, width: int = 16, classes: int = 10) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise SettingError(f"a CIFAR ResNet has depth 6n + 2 (8, 14, 20, …), got {depth}")
        if width < 2 or width % 2:
            raise SettingError(f"the width of a CIFAR ResNet must be an even number above 0, got {width}")
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, blocks, stride=1)
        self.layer2 = _stage(width, 2 * width, blocks, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, blocks, stride=2)
        self.linear = nn.Linear(4 * width, classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Scores of shape (batch, classes) for images of shape (batch, 3, 32, 32)."""
        hidden = functional.relu(self.bn1(self.conv1(images)))
        hidden = self.layer3(self.layer2(self.layer1(hidden)))
        return self.linear(hidden.mean((2, 3)))  # type: ignore[no-any-return]


def _stage(incoming: int, outgoing: int, blocks: int, stride: int) -> nn.Sequential:
    first = ResidualBlock(incoming, outgoing, stride)
    return nn.Sequential(first, *(ResidualBlock(outgoing, outgoing, 1) for _ in range(blocks - 1)))


class VGG16(nn.Module):
    """VGG-16 for 32 × 32 images: 13 convolutions with batch norm and ReLU, five poolings, one linear layer.

    Args:
        width: channels of the first convolution; the others keep the published proportions to it.
        classes: number of scores.

    Source: Simonyan & Zisserman 2015 (arXiv 1409.1556), configuration D, with batch norm and with one linear
    layer in place of three, as is usual for CIFAR; names of parameters of kuangliu/pytorch-cifar.

    Example:
        >>> sum(p.dim() == 4 for p in VGG16().parameters())
        13
    """

    def __init__(self, width: int = 64, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        incoming = 3
        for published in _VGG16:
            if not published:
                layers.append(nn.MaxPool2d(2))
                continue
            outgoing = published * width // 64
            layers += [nn.Conv2d(incoming, outgoing, 3, padding=1), nn.BatchNorm2d(outgoing), nn.ReLU()]
            incoming = outgoing
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(incoming, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Scores of shape (batch, classes) for images of shape (batch, 3, 32, 32)."""
        return self.classifier(torch.flatten(self.features(images), 1))  # type: ignore[no-any-return]
