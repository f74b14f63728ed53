"""The zoo: networks for images, each with the order of its group written out by hand."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cases import Calls, Case, Integers, Joined, L

IMAGE = (2, 3, 8, 8)


def conv_norm(inner: int, outer: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inner, outer, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outer)]


# -- residual networks ----------------------------------------------------------------------------


class Bottleneck(nn.Module):
    """1 × 1, 3 × 3 (grouped for ResNeXt), 1 × 1, with a projection where the shape changes."""

    def __init__(self, inner: int, width: int, outer: int, stride: int, groups: int):
        super().__init__()
        self.conv1 = nn.Sequential(*conv_norm(inner, width))
        self.conv2 = nn.Sequential(*conv_norm(width, width, 3, stride, groups))
        self.conv3 = nn.Sequential(*conv_norm(width, outer))
        same = inner == outer and stride == 1
        self.shortcut = nn.Identity() if same else nn.Sequential(*conv_norm(inner, outer, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv1(x), inplace=True)
        y = self.conv3(F.relu(self.conv2(y), inplace=True))
        return F.relu(y + self.shortcut(x), inplace=True)


def bottleneck_resnet(groups: int = 1) -> nn.Module:
    return nn.Sequential(
        *conv_norm(3, 6, 3), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1),
        Bottleneck(6, 8, 12, 1, groups), Bottleneck(12, 8, 12, 1, groups),
        Bottleneck(12, 16, 20, 2, groups), Bottleneck(20, 16, 20, 1, groups),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, 5),
    )  # fmt: skip


class Preactivation(nn.Module):
    """Norm and ReLU before the convolutions; a projection reads the activated input."""

    def __init__(self, inner: int, outer: int, stride: int):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(inner), nn.BatchNorm2d(outer)
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.shortcut = None if inner == outer else nn.Conv2d(inner, outer, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(x))
        x = x if self.shortcut is None else self.shortcut(y)
        return x + self.conv2(F.relu(self.bn2(self.conv1(y))))


def preactivation_resnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 1, 1, bias=False), Preactivation(6, 6, 1), Preactivation(6, 8, 2),
        Preactivation(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 4),
    )  # fmt: skip


# -- concatenations -------------------------------------------------------------------------------


class DenseLayer(nn.Module):
    """BN, ReLU, 1 × 1, BN, ReLU, 3 × 3, beside what came in."""

    def __init__(self, inner: int, middle: int, growth: int):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inner), nn.Conv2d(inner, middle, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(middle), nn.Conv2d(middle, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))
        return torch.cat([x, y], 1)


def dense_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False), DenseLayer(6, 8, 4), DenseLayer(10, 8, 4),
        nn.BatchNorm2d(14), nn.ReLU(), nn.Conv2d(14, 7, 1, bias=False), nn.AvgPool2d(2),  # the transition
        DenseLayer(7, 8, 4), DenseLayer(11, 8, 4),
        nn.BatchNorm2d(15), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(15, 4),
    )  # fmt: skip


class Inception(nn.Module):
    """Four branches side by side."""

    def __init__(self, inner: int, widths: tuple[int, ...]):
        super().__init__()
        a, b, c, d, e, f, g = widths
        self.one = nn.Sequential(*conv_norm(inner, a), nn.ReLU())
        self.three = nn.Sequential(*conv_norm(inner, b), nn.ReLU(), *conv_norm(b, c, 3), nn.ReLU())
        self.five = nn.Sequential(
            *conv_norm(inner, d), nn.ReLU(), *conv_norm(d, e, 3), nn.ReLU(), *conv_norm(e, f, 3), nn.ReLU()
        )
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), *conv_norm(inner, g), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1)


FIRST, SECOND = (4, 3, 5, 3, 4, 5, 6), (5, 4, 3, 6, 5, 4, 3)


def inception() -> nn.Module:
    return nn.Sequential(
        *conv_norm(3, 7, 3), nn.ReLU(), Inception(7, FIRST), nn.MaxPool2d(2), Inception(20, SECOND),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.4), nn.Linear(15, 4),
    )  # fmt: skip


def u_net() -> nn.Module:
    def double(inner: int, outer: int) -> nn.Module:
        return nn.Sequential(*conv_norm(inner, outer, 3), nn.ReLU(), *conv_norm(outer, outer, 3), nn.ReLU())

    def forward(m, x):
        one = m.down1(x)
        two = m.down2(F.max_pool2d(one, 2))
        low = m.bottom(F.max_pool2d(two, 2))
        two = m.up2(torch.cat([two, m.wide2(low)], 1))
        one = m.up1(torch.cat([m.wide1(two), one], 1))
        return m.head(one)

    return Calls(
        forward,
        down1=double(3, 4), down2=double(4, 6), bottom=double(6, 8),
        wide2=nn.ConvTranspose2d(8, 5, 2, 2), up2=double(11, 6),
        wide1=nn.ConvTranspose2d(6, 7, 2, 2), up1=double(11, 4), head=nn.Conv2d(4, 2, 1),
    )  # fmt: skip


# -- mobile networks ------------------------------------------------------------------------------


class Inverted(nn.Module):
    """MobileNet V3: expand, depthwise, squeeze-excite, project; a skip if the shape stays."""

    def __init__(self, inner: int, wide: int, squeezed: int, outer: int, stride: int):
        super().__init__()
        self.expand = nn.Sequential(*conv_norm(inner, wide), nn.Hardswish())
        self.depth = nn.Sequential(*conv_norm(wide, wide, 3, stride, groups=wide), nn.Hardswish())
        self.down, self.up = nn.Conv2d(wide, squeezed, 1), nn.Conv2d(squeezed, wide, 1)
        self.project = nn.Sequential(*conv_norm(wide, outer))
        self.skip = stride == 1 and inner == outer

    def forward(self, x: Tensor) -> Tensor:
        y = self.depth(self.expand(x))
        y = y * F.hardsigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(y, 1)))))
        return self.project(y) + x if self.skip else self.project(y)


def mobile_net() -> nn.Module:
    return nn.Sequential(
        *conv_norm(3, 6, 3), nn.Hardswish(), Inverted(6, 10, 3, 6, 1), Inverted(6, 12, 4, 8, 2),
        Inverted(8, 14, 4, 8, 1), *conv_norm(8, 16), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 18), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(18, 4),
    )  # fmt: skip


def shuffled(x: Tensor) -> Tensor:
    """The channels of two halves in turn: a0 b0 a1 b1 …"""
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class ShuffleUnit(nn.Module):
    """ShuffleNet V2: half of the channels pass, the other half goes through a branch; then shuffle."""

    def __init__(self, inner: int, half: int, stride: int):
        super().__init__()
        entering = inner if stride > 1 else half
        self.right = nn.Sequential(
            *conv_norm(entering, half), nn.ReLU(), *conv_norm(half, half, 3, stride, half),
            *conv_norm(half, half), nn.ReLU(),
        )  # fmt: skip
        self.left = None
        if stride > 1:
            self.left = nn.Sequential(
                *conv_norm(inner, inner, 3, stride, inner), *conv_norm(inner, half), nn.ReLU()
            )

    def forward(self, x: Tensor) -> Tensor:
        left, right = (x, x) if self.left is not None else x.chunk(2, 1)
        left = left if self.left is None else self.left(left)
        return shuffled(torch.cat([left, self.right(right)], 1))


def shuffle_net() -> nn.Module:
    return nn.Sequential(
        *conv_norm(3, 6, 3), nn.ReLU(), ShuffleUnit(6, 8, 2), ShuffleUnit(16, 8, 1), ShuffleUnit(16, 8, 1),
        *conv_norm(16, 10), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 4),
    )  # fmt: skip


# -- modern ---------------------------------------------------------------------------------------


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of images."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNextBlock(nn.Module):
    """Depthwise convolution, then a layer norm and an MLP with the channels last, and a layer scale."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.depth = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.scale = nn.Parameter(1e-6 * torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depth(x).permute(0, 2, 3, 1))
        y = self.scale * self.down(F.gelu(self.up(y)))
        return x + y.permute(0, 3, 1, 2)


def conv_next() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 2, 2), ChannelNorm(6), ConvNextBlock(6, 16), ConvNextBlock(6, 16),
        ChannelNorm(6), nn.Conv2d(6, 8, 2, 2), ConvNextBlock(8, 20),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(8), nn.Linear(8, 4),
    )  # fmt: skip


class NormedBlock(nn.Module):
    """The residual block of diffusion models: group norms, and a scale and shift made from the condition."""

    def __init__(self, width: int, groups: int, condition: int):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, width), nn.Conv2d(width, width, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(groups, width), nn.Conv2d(width, width, 3, padding=1)
        self.film = nn.Linear(condition, 2 * width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.film(F.silu(condition))[:, :, None, None].chunk(2, 1)
        y = self.norm2(self.conv1(F.silu(self.norm1(x)))) * (1 + scale) + shift
        return x + self.conv2(F.silu(y))


def film() -> nn.Module:
    def forward(m, x, time):
        frequencies = torch.exp(-0.7 * torch.arange(4, device=time.device, dtype=x.dtype))
        angles = time[:, None] * frequencies
        condition = m.time2(F.silu(m.time1(torch.cat([angles.sin(), angles.cos()], 1))))
        x = m.enter(x)
        for block in m.blocks:
            x = block(x, condition)
        return m.leave(F.silu(m.norm(x)))

    return Calls(
        forward,
        time1=nn.Linear(8, 9), time2=nn.Linear(9, 10), enter=nn.Conv2d(3, 8, 3, padding=1),
        blocks=nn.ModuleList(NormedBlock(8, 4, 10) for _ in range(2)),
        norm=nn.GroupNorm(4, 8), leave=nn.Conv2d(8, 3, 3, padding=1),
    )  # fmt: skip


def conditional_batch_norm() -> nn.Module:
    def forward(m, x, kind):
        x = F.interpolate(m.enter(x), scale_factor=2.0)
        y = m.conv1(F.relu(m.norm1(x) * m.gain1(kind)[:, :, None, None] + m.bias1(kind)[:, :, None, None]))
        y = m.norm2(y) * m.gain2(kind)[:, :, None, None] + m.bias2(kind)[:, :, None, None]
        return torch.tanh(m.leave(F.relu(y)))

    return Calls(
        forward,
        enter=nn.Conv2d(3, 6, 1), norm1=nn.BatchNorm2d(6, affine=False),
        gain1=nn.Embedding(5, 6), bias1=nn.Embedding(5, 6), conv1=nn.Conv2d(6, 8, 3, padding=1),
        norm2=nn.BatchNorm2d(8, affine=False), gain2=nn.Embedding(5, 8), bias2=nn.Embedding(5, 8),
        leave=nn.Conv2d(8, 3, 3, padding=1),
    )  # fmt: skip


def pixel_shuffle() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.PReLU(6), nn.Conv2d(6, 20, 3, padding=1), nn.PixelShuffle(2),
        nn.Tanh(), nn.Conv2d(5, 12, 3, padding=1), nn.PixelShuffle(2),
    )  # fmt: skip


def siamese() -> nn.Module:
    def forward(m, x, y):
        a, b = (F.normalize(m.encoder(each), dim=1) for each in (x, y))
        return m.head(torch.cat([(a - b).abs(), a * b], 1))

    encoder = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(8, 10),
    )  # fmt: skip
    return Calls(forward, encoder=encoder, head=nn.Linear(20, 1))


def variable_places() -> nn.Module:
    """Global response norm and attention pooling: units meet over places, not over channels."""

    def forward(m, x):
        x = m.conv(x)
        energy = x.pow(2).sum((2, 3), keepdim=True).sqrt()
        x = F.gelu(x * (energy / energy.mean(1, keepdim=True)) * m.gain + x)
        places = m.score(x).flatten(2).softmax(-1)
        return m.head((x.flatten(2) @ places.transpose(1, 2)).flatten(1))

    module = Calls(
        forward, conv=nn.Conv2d(3, 8, 3), score=nn.Conv2d(8, 3, 1, bias=False), head=nn.Linear(24, 4)
    )
    module.gain = nn.Parameter(torch.ones(8, 1, 1))
    return module


# In all of these, one term is the channels of one convolution (with its norm, and the input channels of all
# that read it); the channels that a sum joins count once.
VISION = (
    Case(
        "bottleneck_resnet", bottleneck_resnet, IMAGE,
        # Stem, two residual streams, and two inner widths in each of the four blocks.
        L(6) + L(12) + L(20) + 2 * 2 * L(8) + 2 * 2 * L(16),
        joined=(
            Joined(
                "4.conv3.0.weight[0] 4.shortcut.0.weight[0] 4.shortcut.1.running_var[0] 5.conv3.1.bias[0] "
                "5.conv1.0.weight[1] 6.conv1.0.weight[1] 6.shortcut.0.weight[1]", 12, within=0,
            ),
            Joined("0.weight[0] 1.running_mean[0] 4.conv1.0.weight[1] 4.shortcut.0.weight[1]", 6, within=0),
            Joined("7.conv1.0.weight[0] 7.conv1.1.running_mean[0] 7.conv2.0.weight[1]", 16, within=0),
        ),
    ),
    Case(
        "resnext", lambda: bottleneck_resnet(4), IMAGE,
        # Each block: the four groups change places with all that is theirs; in a group, what enters the
        # grouped convolution and what leaves it have orders of their own.
        L(6) + L(12) + L(20) + 2 * (L(4) + 4 * 2 * L(2)) + 2 * (L(4) + 4 * 2 * L(4)),
        joined=(
            Joined("6.conv1.0.weight[0] 6.conv1.1.running_var[0] 6.conv2.0.weight[1]", 16, within=4),
            Joined("6.conv2.0.weight[0] 6.conv2.1.running_var[0] 6.conv3.0.weight[1]", 16, within=4),
        ),
    ),
    Case(
        "preactivation_resnet", preactivation_resnet, IMAGE, L(6) + L(8) + L(6) + 2 * L(8),
        joined=(
            Joined("0.weight[0] 1.bn1.weight[0] 1.conv2.weight[0] 2.bn1.bias[0] 2.shortcut.weight[1]", 6),
            Joined("2.shortcut.weight[0] 2.conv2.weight[0] 3.conv2.weight[0] 4.weight[0] 8.weight[1]", 8),
        ),
    ),
    Case(
        "dense_net", dense_net, IMAGE,
        # Stem, transition, and in each of the four layers the inner width and the growth.
        L(6) + L(7) + 4 * (L(8) + L(4)),
        joined=(
            # The stem is read by both layers of its block and by the transition, at the first six columns.
            Joined("0.weight[0] 1.norm1.weight[0] 2.norm1.running_mean[0] 3.running_mean[0] 5.weight[1]", 6),
            Joined("1.conv2.weight[0] 2.norm1.weight[0] 2.conv1.weight[1] 3.bias[0] 5.weight[1]", 4),
        ),
    ),
    Case(
        "inception", inception, IMAGE, L(7) + sum(map(L, FIRST + SECOND)),
        joined=(Joined("3.five.6.weight[0] 3.five.7.bias[0] 5.one.0.weight[1] 5.pool.1.weight[1]", 5, 0),),
    ),
    Case(
        "u_net", u_net, IMAGE,
        # Two widths for each double convolution, and one for each transposed convolution.
        2 * (L(4) + L(6) + L(8) + L(6) + L(4)) + L(5) + L(7),
        joined=(
            Joined("down1.3.weight[0] down1.4.bias[0] down2.0.weight[1] up1.0.weight[1]", 4),
            # A transposed convolution has its output channels along axis 1.
            Joined("wide1.weight[1] wide1.bias[0] up1.0.weight[1]", 7),
        ),
    ),
    Case(
        "mobile_net", mobile_net, IMAGE,
        # Streams 6 and 8; a wide and a squeezed width for each block; the two widths of the head.
        L(6) + L(8) + L(10) + L(3) + L(12) + L(4) + L(14) + L(4) + L(16) + L(18),
        joined=(
            Joined(
                "3.expand.0.weight[0] 3.depth.0.weight[0] 3.depth.1.running_mean[0] 3.down.weight[1] "
                "3.up.weight[0] 3.up.bias[0] 3.project.0.weight[1]", 10, within=0,
            ),
            Joined("0.weight[0] 3.project.0.weight[0] 4.expand.0.weight[1]", 6),
        ),
    ),
    Case(
        "shuffle_net", shuffle_net, IMAGE,
        # The stem, 6. The unit of stride 2: 8 inside, and two halves a and b of 8 come out, in turn. The
        # second unit passes a[:4], b[:4] and reads a[4:], b[4:]: only units of one fate may change places.
        # It adds c of 8, after 8 inside, and what passed was a0 b0 … a3 b3. The third unit passes a[:2],
        # b[:2], c[:4] and reads the rest, so that a, b and c fall into cells of 2, 2, 4; 2, 2, 4; 4, 4. It
        # adds d of 8, after 8 inside; the last convolution reads all.
        L(6) + L(8) + 2 * (2 * L(2) + L(4)) + L(8) + 2 * L(4) + L(8) + L(8) + L(10),
    ),
    Case(
        "conv_next", conv_next, IMAGE, L(6) + L(8) + 2 * L(16) + L(20),
        joined=(
            Joined(
                "0.weight[0] 1.weight[0] 2.depth.weight[0] 2.norm.bias[0] 2.up.weight[1] 2.down.weight[0] "
                "2.scale[0] 5.weight[1]", 6, within=0,
            ),
        ),
    ),
    Case(
        "film", film, (IMAGE, (2,)),
        # The condition: 9 and 10. The stream of 8 channels in 4 groups, whose norms agree on the groups; and
        # in both blocks 8 channels between the convolutions, in 4 groups of their own.
        L(9) + L(10) + 3 * (L(4) + 4 * L(2)),
        joined=(
            # The scales and the shifts of one channel lie on the same axis, twice.
            Joined("blocks.0.film.weight[0] blocks.0.conv1.weight[0] blocks.0.conv2.weight[1]", 8, within=4),
            Joined("enter.weight[0] blocks.1.conv2.weight[0] norm.weight[0] leave.weight[1]", 8, within=4),
        ),
    ),
    Case(
        "conditional_batch_norm", conditional_batch_norm, ((2, 3, 4, 4), Integers((2,), 5)), L(6) + L(8),
        joined=(
            Joined("enter.bias[0] norm1.running_mean[0] gain1.weight[1] bias1.weight[1] conv1.weight[1]", 6),
        ),
    ),
    Case(
        "pixel_shuffle", pixel_shuffle, (2, 3, 4, 4),
        # A channel after the shuffle is four channels before it, one for each place in its square; the last
        # shuffle gives the output.
        L(6) + L(5),
        joined=(Joined("2.weight[0] 2.bias[0] 5.weight[1]", 5, within=0),),
    ),
    Case(
        "siamese", siamese, (IMAGE, IMAGE), L(6) + L(8) + L(10),
        joined=(Joined("encoder.6.weight[0] encoder.6.bias[0] head.weight[1]", 10, within=0),),
    ),
    Case(
        "response_norm", variable_places, IMAGE,
        # The three maps of attention are a further axis: the head reads map by channel, which is two axes on
        # one axis of its weight.
        L(8) + L(3),
        joined=(
            Joined("conv.weight[0] gain[0] score.weight[1] head.weight[1]", 8, within=0),
            Joined("score.weight[0] head.weight[1]", 3, within=0),
        ),
    ),
)  # fmt: skip
