"""Changes of training images that leave their class alone."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_PADDING = 4
_NOISE = 0.5


def add_noise(images: Tensor, generator: torch.Generator) -> Tensor:
    """Add Gaussian noise with half the standard deviation of the (normalised) data to every pixel.

    Args:
        images: any shape.
        generator: a CPU generator; the same state gives the same noise.

    Returns:
        New images of the same shape.
    """
    noise = torch.randn(images.shape, generator=generator, dtype=images.dtype)
    return images + _NOISE * noise.to(images.device)


def crop_and_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each image by up to 4 pixels each way (a random crop of the padded image), and mirror half.

    The padding is zero, which for normalised images is the data's mean colour; the usual pipeline pads before
    it normalises, with black.

    Args:
        images: shape (batch, channels, height, width).
        generator: a CPU generator; the same state gives the same images.

    Returns:
        New images of the same shape.

    Source: He, Zhang, Ren, Sun 2015 (arXiv 1512.03385), section 4.2.

    Example:
        >>> images = torch.ones(2, 3, 32, 32)
        >>> crop_and_flip(images, torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3, 32, 32])
    """
    count, _, height, width = images.shape
    padded = functional.pad(images, (_PADDING,) * 4)
    top, left = torch.randint(2 * _PADDING + 1, (2, count, 1), generator=generator)
    mirrored = torch.rand(count, 1, generator=generator) < 0.5
    across = torch.arange(width)
    rows = top + torch.arange(height)
    columns = left + torch.where(mirrored, across.flip(0), across)
    example = torch.arange(count)[:, None, None]
    # Channels last for the selection, so that one index picks a whole pixel.
    picked = padded.movedim(1, -1)[example, rows[:, :, None], columns[:, None, :]]
    return picked.movedim(-1, 1).contiguous()
