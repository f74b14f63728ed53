"""Batch-norm statistics of weights that nobody trained.

The running statistics of an interpolated network belong to neither end. `recalibrate` measures them anew.
It differs from `torch.optim.swa_utils.update_bn` on purpose: batches count by their samples, the variance
*between* batches is kept, dropout stays off, and the module is left as it was found after an exception.

Source: Izmailov et al. 2018, arXiv 1803.05407, section 3.2; Jordan et al. 2023, arXiv 2211.08403 ("reset").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from isthmus.errors import DataError, SettingError, TaskError
from isthmus.stats import Moments


class BatchNormPolicy(Enum):
    """Where the batch-norm statistics of a point on a path come from."""

    RECALIBRATE = "recalibrate"
    """Measured anew on training examples, at every point, the ends included (the default)."""
    INTERPOLATE = "interpolate"
    """The ends' statistics, blended like their weights."""
    KEEP = "keep"
    """As saved where a point carries its own (the ends, to the bit); elsewhere those of the nearer end."""


def policy_named(value: str | BatchNormPolicy) -> BatchNormPolicy:
    """The policy of this name, or itself.

    Raises:
        SettingError: there is none of this name.
    """
    try:
        return BatchNormPolicy(value)
    except ValueError:
        known = ", ".join(policy.value for policy in BatchNormPolicy)
        raise SettingError(f"expected a batch-norm policy ({known}), got {value!r}") from None


def batchnorm_layers(module: nn.Module) -> dict[str, _BatchNorm]:
    """The batch-norm layers that keep running statistics, by name; a shared layer once."""
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None
    }


def recalibrate(
    module: nn.Module, batches: Iterable[Any], forward: Callable[[nn.Module, Any], Any]
) -> dict[str, Tensor]:
    """Measure the batch-norm statistics of `module` on these batches, and leave the module as it was.

    Every batch-norm layer normalises by the statistics of the batch it sees, as in training, while all
    other layers (dropout too) are in evaluation mode. Means and variances are merged over *samples*: a
    last batch of 3 counts 3, and the variance between batches is part of the total.

    Args:
        module: the network at the weights in question.
        batches: what `forward` takes; at least one.
        forward: runs the module on one batch.

    Returns:
        `running_mean` and `running_var` of each layer that ran, by their buffers' names, in their dtype.

    Raises:
        DataError: there are no batches, or a batch gives a layer a single value a channel.
    """
    found = measure(module, batches, forward)
    return statistics(module, found)


def measure(
    module: nn.Module, batches: Iterable[Any], forward: Callable[[nn.Module, Any], Any]
) -> dict[str, Moments]:
    """The moments of what each batch-norm layer is given on these batches, by the layers' names.

    Moments of several sets of batches merge (`Moments.merge`), so what was measured on few examples is
    extended to more without a second pass over the first.

    Args:
        module: the network at the weights in question; left as it was.
        batches: what `forward` takes; at least one.
        forward: runs the module on one batch.

    Raises:
        DataError: as `recalibrate`.
    """
    layers = batchnorm_layers(module)
    if not layers:
        return {}
    found: dict[str, Moments] = {}
    with torch.no_grad(), _measuring(module, layers, found):
        seen = 0
        for batch in batches:
            forward(module, batch)
            seen += 1
    if not seen:
        raise DataError("batch-norm recalibration needs at least one training example, but there is none")
    return found


def statistics(module: nn.Module, found: Mapping[str, Moments]) -> dict[str, Tensor]:
    """`running_mean` and `running_var` of measured layers, by their buffers' names, in their dtype."""
    layers = batchnorm_layers(module)
    result: dict[str, Tensor] = {}
    for name, moments in found.items():
        prefix = f"{name}." if name else ""
        kept = layers[name].running_mean
        assert kept is not None
        result[f"{prefix}running_mean"] = moments.mean.to(kept.dtype)
        result[f"{prefix}running_var"] = moments.variance.to(kept.dtype)
    return result


@contextmanager
def _measuring(
    module: nn.Module, layers: Mapping[str, _BatchNorm], found: dict[str, Moments]
) -> Iterator[None]:
    """Let the layers compute each batch's statistics for us: with momentum 1 they keep exactly the last.

    Reading them from there costs nothing beside the forward pass; a second pass over the activations would.
    """
    training = {part: part.training for part in module.modules()}
    saved = [
        (layer, layer.momentum, [b.detach().clone() for b in layer.buffers()]) for layer in layers.values()
    ]

    def read(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
            assert isinstance(layer, _BatchNorm)
            assert layer.running_mean is not None
            assert layer.running_var is not None
            count = inputs[0].numel() // layer.num_features
            batch = Moments.of_batch(count, layer.running_mean, layer.running_var)
            found[name] = found[name].merge(batch) if name in found else batch

        return hook

    handles = [layer.register_forward_hook(read(name)) for name, layer in layers.items()]
    try:
        module.eval()
        for layer in layers.values():
            layer.train()
            layer.momentum = 1.0
        yield
    except (ValueError, TaskError) as error:
        if "more than 1 value per channel" in str(error):
            raise DataError(
                "batch-norm recalibration needs more than one value a channel in every batch; "
                "use more examples or a larger batch"
            ) from error
        raise
    finally:
        for handle in handles:
            handle.remove()
        for layer, momentum, buffers in saved:
            layer.momentum = momentum
            with torch.no_grad():
                for own, value in zip(layer.buffers(), buffers, strict=True):
                    own.copy_(value)
        for part, flag in training.items():
            part.training = flag
