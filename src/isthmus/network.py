"""A network as a function of weights: the one file that knows `nn.Module`.

A `Network` owns a copy of the user's module. To run it at some weights, its parameters are *pointed* at the
views of that weight vector (a pointer swap, no copy) and pointed back afterwards, whatever happens. For
training, the parameters' gradients are pointed at one flat gradient buffer likewise. The user's own module
is never touched.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isthmus.errors import LayoutError
from isthmus.layout import Layout
from isthmus.weights import Weights


@dataclass(frozen=True)
class Binding:
    """A module whose parameters and gradients are views of two flat vectors.

    Attributes:
        module: the bound module, in training mode.
        vector: the weights that it computes with, shape (P,).
        gradient: where backward adds its gradients, shape (P,).
    """

    module: nn.Module
    vector: Tensor
    gradient: Tensor
    _network: Network
    _whole: bool = False

    def load(self) -> None:
        """Make the module see the present content of `vector` (free unless dtypes are mixed)."""
        self._network._load(self.vector)

    def collect(self) -> None:
        """Complete `gradient` after backward: cast narrow gradients, and hold frozen parameters still."""
        self._network._collect(self.gradient, self._whole)


class Network:
    """A copy of a module that can be run at any weights of its layout.

    Args:
        module: any module whose parameters are initialised; it is copied, and never changed. Parts that it
            keeps in evaluation mode within a module in training mode (frozen batch norm, say) stay so in
            training.
        device: where the copy lives.

    Raises:
        LayoutError: the module cannot be copied.

    Attributes:
        module: the copy. At rest it holds `reference` and is in evaluation mode.
        reference: the weights and buffers that the module came with.
    """

    def __init__(self, module: nn.Module, device: torch.device | str = "cpu") -> None:
        self.module = _copied(module).to(device)
        self._training = {part: part.training or not module.training for part in self.module.modules()}
        self.module.eval()
        self.reference = Weights.from_module(self.module)
        self.device = torch.device(device)
        named = dict(self.module.named_parameters())
        self._parameters = [named[name] for name in self.layout.names]
        self._frozen = [i for i, p in enumerate(self._parameters) if not p.requires_grad]
        beside = dict(self.module.named_buffers(remove_duplicate=False)) | named
        self._beside = {name: own for name, own in beside.items() if name not in self.layout.index}
        self._resting = {name: own.detach().clone() for name, own in self._beside.items()}
        self._own = [parameter.data for parameter in self._parameters]
        self._busy = False

    def on(self, device: torch.device | str) -> Network:
        """This network on a device, itself if it is there; what training leaves alone stays so."""
        if torch.device(device) == self.device:
            return self
        twin = Network(self.module, device)
        pairs = zip(self.module.modules(), twin.module.modules(), strict=True)
        twin._training = {theirs: self._training[mine] for mine, theirs in pairs}
        return twin

    @property
    def layout(self) -> Layout:
        """The layout of the module's parameters."""
        return self.reference.layout

    @contextmanager
    def at(self, weights: Weights) -> Iterator[nn.Module]:
        """The module in evaluation mode at these weights; everything is put back on leaving.

        Buffers that the weights carry are copied into the module; weights without buffers see the buffers
        that the module came with.

        Raises:
            LayoutError: the weights have another layout.
        """
        self.require(weights)
        self._enter()
        try:
            self._point(weights.vector)
            self.set_buffers(weights.buffers)
            yield self.module
        finally:
            self._restore()

    @contextmanager
    def bound(
        self, vector: Tensor, gradient: Tensor, buffers: Mapping[str, Tensor], whole: bool = False
    ) -> Iterator[Binding]:
        """The module in training mode on a weight vector and a gradient vector that change in place.

        Args:
            vector: shape (P,), the weights; call `Binding.load` after changing them.
            gradient: shape (P,); backward *adds* to it, so set it first (to zero, or to a decay term).
            buffers: what the module's buffers start from.
            whole: whether parameters that do not require gradients get theirs, too.
        """
        self._enter()
        freed = [self._parameters[i] for i in self._frozen] if whole else []
        try:
            for parameter in freed:
                parameter.requires_grad_(True)
            self._point(vector)
            self.set_buffers(buffers)
            self._point_gradients(gradient)
            for part, flag in self._training.items():
                part.training = flag
            yield Binding(self.module, vector, gradient, self, whole)
        finally:
            for parameter in freed:
                parameter.requires_grad_(False)
            self._restore()

    @property
    def frozen(self) -> list[slice]:
        """The parts of the vector whose parameters do not require gradients: training leaves them."""
        start, size = self.layout.offsets, self.layout.sizes
        return [slice(start[i], start[i] + size[i]) for i in self._frozen]

    def set_buffers(self, buffers: Mapping[str, Tensor]) -> None:
        """Copy these values into the module's buffers; a buffer not named gets the value it came with."""
        with torch.no_grad():
            for name, own in self._beside.items():
                own.copy_(buffers.get(name, self._resting[name]))

    def buffers(self) -> dict[str, Tensor]:
        """A copy of the present values of the module's buffers, those that no checkpoint holds too."""
        return {name: own.detach().clone() for name, own in self._beside.items()}

    def _enter(self) -> None:
        """A network is at one point at a time: two at once would overwrite each other."""
        if self._busy:
            raise RuntimeError("this network is in use at other weights; use another Network beside it")
        self._busy = True

    def require(self, weights: Weights) -> None:
        """Refuse weights of another layout.

        Raises:
            LayoutError: naming the first difference.
        """
        if weights.layout is self.layout or weights.layout == self.layout:
            return
        difference = self.layout.difference(weights.layout) or "another order or dtype; use .conform"
        raise LayoutError(f"these weights do not fit {type(self.module).__name__}: {difference}")

    def _point(self, vector: Tensor) -> None:
        if vector.shape != (self.layout.numel,):
            raise LayoutError(f"expected a vector of shape [{self.layout.numel}], got {list(vector.shape)}")
        if not self.layout.uniform:
            self._load(vector)
            return
        for position, parameter in enumerate(self._parameters):
            parameter.data = self.layout.view(vector, position)

    def _load(self, vector: Tensor) -> None:
        if self.layout.uniform:
            return
        with torch.no_grad():
            for position, parameter in enumerate(self._parameters):
                parameter.copy_(self.layout.view(vector, position))

    def _point_gradients(self, gradient: Tensor) -> None:
        for position, parameter in enumerate(self._parameters):
            if parameter.requires_grad and self.layout.uniform:
                parameter.grad = self.layout.view(gradient, position)

    def _collect(self, gradient: Tensor, whole: bool) -> None:
        if not self.layout.uniform:
            for position, parameter in enumerate(self._parameters):
                if parameter.grad is not None:
                    self.layout.view(gradient, position).add_(parameter.grad)
                    parameter.grad = None
        for part in () if whole else self.frozen:
            gradient[part] = 0

    def _restore(self) -> None:
        """Back to rest: own storage, reference values, no gradients, evaluation mode."""
        for parameter, own in zip(self._parameters, self._own, strict=True):
            parameter.data = own
            parameter.grad = None
        if not self.layout.uniform:
            self._load(self.reference.vector)
        self.set_buffers({})
        self.module.eval()
        self._busy = False


def _copied(module: nn.Module) -> nn.Module:
    """A copy that shares nothing with the module."""
    try:
        return copy.deepcopy(module)
    except (RuntimeError, TypeError) as error:
        raise LayoutError(
            f"the module {type(module).__name__} cannot be copied ({error}); give a function that builds it, "
            "or a module that holds no results of a computation"
        ) from error
