"""Training a task's model from a seed, by the task's recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from isthmus.errors import SettingError, TaskError
from isthmus.fanout import Alone, World
from isthmus.identity import digest_of
from isthmus.io.state import Store
from isthmus.landscape import Landscape, Recipe, Task
from isthmus.progress import Progress
from isthmus.stepping import common_loss, share_of, take_steps
from isthmus.weights import Weights

_OPTIMIZER = "optimizer."
_BUFFER = "buffer."


def train(
    task: Task,
    seed: int = 0,
    *,
    steps: int | None = None,
    device: str = "cpu",
    store: Store | None = None,
    progress: Progress | None = None,
    world: World | None = None,
) -> Weights:
    """Train a fresh model of a task.

    The seed gives the initialisation, the order of the data, augmentation and dropout, each from a stream of
    its own. The same seed gives the same weights to the last bit on one machine with one number of threads,
    whatever the interruptions.

    Args:
        task: model, data and recipe.
        seed: any integer.
        steps: gradient steps; by default the recipe's epochs.
        device: where to compute.
        store: where the state is kept for resuming.
        progress: shows the loss and the time left.
        world: data-parallel ranks; each takes its share of every batch.

    Returns:
        The trained weights with their batch-norm statistics, on the CPU.

    Raises:
        TaskError: the loss became infinite or not a number.
    """
    run = Training(task, seed, steps, device, world or Alone())
    course = take_steps(run, run.identity, store, progress)
    if not course.finite:
        raise TaskError(
            f"training {task.name} with seed {seed} diverged at step {course.taken}: the loss is not a "
            f"finite number; lower the recipe's rate ({task.recipe.rate:g})"
        )
    return run.trained()


class Training:
    """One training as a procedure of gradient steps on one flat vector: by the recipe, from a start.

    Args:
        task: model, data and recipe.
        seed: of the order of the data, augmentation and dropout; and of the start, if none is given.
        steps: gradient steps; by default the recipe's epochs.
        device: where to compute.
        world: data-parallel ranks.
        start: weights to begin at, of the task's layout; a fresh initialisation by default.
    """

    def __init__(
        self,
        task: Task,
        seed: int,
        steps: int | None,
        device: str,
        world: World,
        start: Weights | None = None,
    ) -> None:
        recipe = task.recipe
        self.task, self.seed, self.world = task, seed, world
        self.landscape = Landscape(task, device)
        self.name = f"training {task.name}, seed {seed}"
        self.per_epoch = self.landscape.steps_per_epoch(recipe.batch)
        self.steps = max(1, round(recipe.epochs * self.per_epoch)) if steps is None else steps
        if self.steps < 1:
            raise SettingError(f"a training needs at least 1 step, got {steps}")
        # Both make a copy: the vector changes in place.
        begun = (Weights.from_module(task.build(seed)) if start is None else task.weights(start)).to(device)
        self.vector = begun.vector
        self.buffers: dict[str, Tensor] = self.landscape.network.buffers() | dict(begun.buffers)
        self.gradient = torch.zeros_like(self.vector)
        self.vector.grad = self.gradient
        self.optimizer = _optimizer(recipe, self.vector)

    @property
    def identity(self) -> str:
        """A digest of the task, the seed and the starting point."""
        start = Weights(self.landscape.network.layout, self.vector, self.buffers).digest()
        return digest_of(self.landscape.identity, self.seed, self.steps, start)

    def rate_at(self, step: int) -> float:
        """The learning rate of a step: the recipe's."""
        return self.task.recipe.rate_at(step, self.steps)

    @contextmanager
    def begin(self, start: int) -> Iterator[Callable[[int], float]]:
        """Step k of the recipe."""
        recipe, network = self.task.recipe, self.landscape.network
        batches = self.landscape.stream(self.seed, recipe.batch, start)
        held = [(part, self.vector[part].clone()) for part in network.frozen]
        with self.landscape.descent(self.vector, self.gradient, self.buffers) as slope:

            def take(step: int) -> float:
                self.gradient.zero_()
                loss = slope(share_of(next(batches), self.world))
                self.world.mean(self.gradient)
                self.optimizer.param_groups[0]["lr"] = self.rate_at(step)
                self.optimizer.step()
                for part, value in held:
                    self.vector[part] = value
                return common_loss(loss, self.world)

            try:
                yield take
            finally:
                self.buffers = network.buffers()

    def trained(self) -> Weights:
        """The present weights, as their owner would save them."""
        self.vector.grad = None
        return self._weights(self.vector, self.buffers)

    def snapshot(self) -> Weights:
        """A copy of the weights as they are between two steps, while the procedure is open."""
        return self._weights(self.vector.detach().clone(), self.landscape.network.buffers())

    def _weights(self, vector: Tensor, buffers: Mapping[str, Tensor]) -> Weights:
        network = self.landscape.network
        kept = {name: buffers[name] for name in network.reference.buffers}
        return Weights(network.layout, vector, kept).rounded().to("cpu")

    def tensors(self) -> dict[str, Tensor]:
        """Weights, buffers and the optimiser's state."""
        optimizer: Mapping[str, Any] = self.optimizer.state_dict()["state"].get(0, {})
        buffers = self.landscape.network.buffers()
        return (
            {"vector": self.vector}
            | {_BUFFER + name: value for name, value in buffers.items()}
            | {_OPTIMIZER + name: value for name, value in optimizer.items() if value is not None}
        )

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put them back."""
        self.vector.copy_(tensors["vector"])
        self.buffers = {name: tensors[_BUFFER + name].to(self.vector.device) for name in self.buffers}
        state = {n.removeprefix(_OPTIMIZER): t for n, t in tensors.items() if n.startswith(_OPTIMIZER)}
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": {0: state}, "param_groups": groups})


def _optimizer(recipe: Recipe, vector: Tensor) -> torch.optim.Optimizer:
    """The recipe's optimiser on the flat vector: one fused pass for all parameters."""
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW([vector], recipe.rate, weight_decay=recipe.weight_decay, fused=True)
    return torch.optim.SGD(
        [vector], recipe.rate, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=recipe.nesterov,
        fused=True,
    )  # fmt: skip
