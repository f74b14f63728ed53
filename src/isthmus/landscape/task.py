"""A task: a model, its data, its loss and how it is trained."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from isthmus.errors import DataError, SettingError, TaskError
from isthmus.identity import described, described_module
from isthmus.landscape.dataset import Augment, Batch, Examples, as_examples, batch_size
from isthmus.network import Network
from isthmus.seeds import seed_default
from isthmus.weights import Weights

_IGNORED = -100
_CAUSAL = ("ForCausalLM", "LMHeadModel")


@dataclass(frozen=True)
class Recipe:
    """How a task's models are trained.

    Attributes:
        epochs: passes over the training data.
        batch: examples a step.
        optimizer: "sgd" (with momentum) or "adamw".
        rate: the peak learning rate.
        momentum: of SGD.
        nesterov: whether SGD looks ahead.
        weight_decay: λ.
        schedule: "cosine" to zero, "constant", or "step" (a tenth after half and after three quarters).
        warmup: the share of the steps over which the rate rises linearly from zero.
        label_smoothing: mixed into the target during training only, in [0, 1).
        augment: a function of (inputs, generator) applied to every training batch.
    """

    epochs: float = 10
    batch: int = 128
    optimizer: Literal["sgd", "adamw"] = "sgd"
    rate: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    schedule: Literal["cosine", "constant", "step"] = "cosine"
    warmup: float = 0.0
    label_smoothing: float = 0.0
    augment: Augment | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "rate"):
            if getattr(self, name) <= 0:
                raise SettingError(f"Recipe.{name} must be above 0, got {getattr(self, name)}")
        if not 0 <= self.momentum < 1 or (self.nesterov and not self.momentum):
            raise SettingError(
                f"Recipe.momentum must lie in [0, 1), and above 0 for nesterov, got {self.momentum}"
            )
        if self.weight_decay < 0 or not 0 <= self.warmup < 1 or not 0 <= self.label_smoothing < 1:
            raise SettingError(
                "Recipe needs weight_decay >= 0, and warmup and label_smoothing in [0, 1), got "
                f"{self.weight_decay}, {self.warmup} and {self.label_smoothing}"
            )
        if self.optimizer not in ("sgd", "adamw"):
            raise SettingError(f"Recipe.optimizer must be 'sgd' or 'adamw', got {self.optimizer!r}")
        if self.schedule not in ("cosine", "constant", "step"):
            raise SettingError(
                f"Recipe.schedule must be 'cosine', 'constant' or 'step', got {self.schedule!r}"
            )

    def rate_at(self, step: int, steps: int) -> float:
        """The learning rate of step number `step` of `steps`."""
        warm = self.warmup * steps
        if step < warm:
            return self.rate * (step + 1) / (warm + 1)
        done = (step - warm) / max(steps - warm, 1)
        if self.schedule == "cosine":
            return self.rate * 0.5 * (1 + math.cos(math.pi * done))
        if self.schedule == "step":
            return self.rate * (1.0 if done < 0.5 else 0.1 if done < 0.75 else 0.01)
        return self.rate


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Task:
    """All that isthmus needs to know of a problem.

    Attributes:
        model: a function without arguments that builds the module (preferred: each training starts from a
            fresh one), or a module.
        train: fitted data: a tuple of tensors (inputs…, targets), a mapping of tensors, or a DataLoader.
        test: held-out data, likewise.
        loss: from (output, target) to one loss an example, shape (batch,). Default: cross-entropy, averaged
            over the positions of a sequence; for regression, give one.
        error: from (output, target) to one number in [0, 1] an example. Default: 1 where the largest output
            is not the target; for regression, give one: say, 1 where the output is off by more than allowed.
        forward: from (module, batch) to the output. Default: `module(*inputs)`, or `module(**mapping)`.
        recipe: how models of this task are trained.
        name: used in records and pages.
        note: a sentence about the data (which part of a set is there, say), shown beside the results.

    Example:
        >>> import torch
        >>> data = (torch.randn(8, 3), torch.randint(2, (8,)))
        >>> task = Task(model=lambda: torch.nn.Linear(3, 2), train=data, test=data)
        >>> task.network.layout.numel
        8
    """

    model: nn.Module | Callable[[], nn.Module]
    train: Any
    test: Any
    loss: Callable[[Any, Any], Tensor] | None = None
    error: Callable[[Any, Any], Tensor] | None = None
    forward: Callable[[nn.Module, Batch], Any] | None = None
    recipe: Recipe = Recipe()
    name: str = "task"
    note: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module) and not callable(self.model):
            raise TaskError(
                f"Task.model must be a module or a function that builds one, got {type(self.model).__name__}"
            )
        self.split("train")
        self.split("test")

    def __repr__(self) -> str:
        return f"Task({self.name})"

    def build(self, seed: int | None = None) -> nn.Module:
        """A fresh module, initialised from this seed (its own values if None).

        Raises:
            TaskError: the model is a module instance with a part that cannot be initialised anew.
        """
        with torch.random.fork_rng():
            if seed is not None:
                seed_default(seed, "initialisation")
            if isinstance(self.model, nn.Module):
                return self.model if seed is None else _reinitialised(self.model)
            try:
                module = self.model()
            except Exception as error:
                raise TaskError(
                    f"Task.model() of {self.name} failed: {type(error).__name__}: {error}"
                ) from error
        if not isinstance(module, nn.Module):
            raise TaskError(f"Task.model() must return an nn.Module, got {type(module).__name__}")
        return module

    @cached_property
    def network(self) -> Network:
        """The task's network, at an initialisation of its own."""
        return Network(self.build(None if isinstance(self.model, nn.Module) else 0))

    @property
    def example(self) -> tuple[Tensor, ...] | dict[str, Tensor]:
        """Inputs of two training examples, for tracing the model."""
        batch = self.split("train").first(2)
        if isinstance(batch, Mapping):
            return {n: t for n, t in batch.items() if n != "labels"}
        return tuple(batch[:-1])

    @cached_property
    def _splits(self) -> dict[str, Examples]:
        return {"train": as_examples(self.train, "train"), "test": as_examples(self.test, "test")}

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What results of this task depend on, as plain data: its data, recipe, model and functions."""
        start = self.network.reference
        return {
            "data": {name: split.fingerprint for name, split in self._splits.items()},
            "recipe": described(vars(self.recipe)),
            "model": [described_module(self.network.module), repr(start.layout), sorted(start.buffers)],
            "functions": [described(f) for f in (self.loss, self.error, self.forward)],
        }

    def split(self, name: str) -> Examples:
        """The examples of one split."""
        return self._splits[name]

    @property
    def traceable(self) -> nn.Module:
        """The task's module with the task's own way of running it as its `forward`, to be traced.

        Its parameters are the network's, under the same names; it takes `example`.
        """
        module = self.network.module
        if self.forward is None and not isinstance(self.example, dict):
            return module
        traced = copy.copy(module)
        traced.__class__ = _running(type(module), self)
        return traced

    def run(self, module: nn.Module, batch: Batch) -> Any:
        """The model's output on a batch.

        Raises:
            TaskError: the model does not take the batch; names the shapes and dtypes.
        """
        try:
            return (self.forward or default_forward)(module, batch)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, AttributeError, ValueError) as error:
            raise TaskError(
                f"the model of {self.name} does not run on its data ({_shapes(batch)}): "
                f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            ) from error

    def losses(self, output: Any, batch: Batch) -> Tensor:
        """The loss of each example, shape (batch,)."""
        return _per_example((self.loss or default_loss)(output, target_of(batch)), batch, "loss")

    def errors(self, output: Any, batch: Batch) -> Tensor:
        """The error of each example, shape (batch,)."""
        return _per_example((self.error or default_error)(output, target_of(batch)), batch, "error")

    def weights(self, state: Weights) -> Weights:
        """These weights in the layout of the task's network."""
        return state.conform(self.network.reference, f"the model of the task {self.name}")


def _running(kind: type[nn.Module], task: Task) -> type[nn.Module]:
    """A kind of module whose forward is the task's way of running that kind."""

    def forward(self: nn.Module, *inputs: Tensor, **named: Tensor) -> Any:
        plain = copy.copy(self)  # shares parameters and parts with self
        plain.__class__ = kind
        return (task.forward or default_forward)(plain, named or (*inputs, None))

    return type(kind.__name__, (kind,), {"forward": forward})


def _shapes(batch: Batch) -> str:
    """The tensors of a batch in words."""
    named = batch.items() if isinstance(batch, Mapping) else enumerate(batch)
    return ", ".join(
        f"{name}: {list(value.shape)} {str(value.dtype).removeprefix('torch.')}"
        for name, value in named
        if isinstance(value, Tensor)
    )


def target_of(batch: Batch) -> Any:
    """The last element of a tuple, or the "labels" of a mapping."""
    if isinstance(batch, Mapping):
        if "labels" not in batch:
            raise TaskError(f"the batch has no 'labels'; it has {', '.join(sorted(batch))}")
        return batch["labels"]
    return batch[-1]


def default_forward(module: nn.Module, batch: Batch) -> Any:
    """`module(*inputs)`; for a mapping `module(**mapping)` and its logits, next-token logits if causal."""
    if not isinstance(batch, Mapping):
        return module(*batch[:-1])
    output = module(**{name: value for name, value in batch.items() if name != "labels"})
    logits = getattr(output, "logits", output)
    return logits[:, :-1] if type(module).__name__.endswith(_CAUSAL) else logits


def default_loss(output: Tensor, target: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy in nats, shape (batch,); over a sequence, the mean of its positions (−100: none)."""
    scores, target = _aligned(output, target, "loss")
    try:
        each = functional.cross_entropy(
            scores, target, reduction="none", ignore_index=_IGNORED, label_smoothing=label_smoothing
        )
    except (IndexError, RuntimeError, ValueError) as error:
        raise DataError(
            f"cross-entropy does not take outputs of shape {list(scores.shape)} with targets of shape "
            f"{list(target.shape)} and values {int(target.min())} to {int(target.max())}: {error}"
        ) from error
    return _mean_over_positions(each, target)


def default_error(output: Tensor, target: Tensor) -> Tensor:
    """1 where the largest score is not the target's, shape (batch,); over a sequence, the mean."""
    scores, target = _aligned(output, target, "error")
    wrong = (scores.argmax(dim=1) != target) & (target != _IGNORED)
    return _mean_over_positions(wrong.float(), target)


def _aligned(output: Tensor, target: Tensor, wanted: str) -> tuple[Tensor, Tensor]:
    """Scores as (batch, classes, positions…) for targets of shape (batch, positions…)."""
    if not isinstance(output, Tensor):
        raise TaskError(
            f"the default loss needs a tensor of scores from the model, got {type(output).__name__}: "
            "pass forward= to pick it out, or loss= and error="
        )
    if not isinstance(target, Tensor) or target.is_floating_point() or target.is_complex():
        kind = target.dtype if isinstance(target, Tensor) else type(target).__name__
        raise TaskError(
            f"the default {wanted} is for classification and needs whole numbers as targets, got {kind}: "
            f"pass {wanted}=, a function of (output, target) that gives one number an example"
        )
    if target.dim() == 2 and output.dim() == 3:
        return output.movedim(-1, 1), target[:, target.shape[1] - output.shape[1] :]
    return output, target


def _mean_over_positions(each: Tensor, target: Tensor) -> Tensor:
    if each.dim() == 1:
        return each
    counted = (target != _IGNORED).to(each.dtype)
    return (each * counted).flatten(1).sum(1) / counted.flatten(1).sum(1).clamp_min(1)


def _per_example(values: Tensor, batch: Batch, name: str) -> Tensor:
    size = batch_size(batch)
    if not isinstance(values, Tensor) or values.shape != (size,):
        got = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
        hint = " (pass reduction='none' to a torch loss)" if name == "loss" else ""
        raise TaskError(f"Task.{name} must return one number an example, shape [{size}], got {got}{hint}")
    return values


def _reinitialised(module: nn.Module) -> nn.Module:
    """A copy of the module with every part's own `reset_parameters` called."""
    fresh = Network(module).module
    for name, part in fresh.named_modules():
        own = list(part.parameters(recurse=False))
        reset = getattr(part, "reset_parameters", None)
        if own and not callable(reset):
            raise TaskError(
                f"the part {name or 'model'} ({type(part).__name__}) cannot be initialised anew: pass "
                "Task(model=…) a function that builds the model instead of a module"
            )
        if callable(reset):
            reset()
    return fresh
