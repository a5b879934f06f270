"""Gradients of a PyTorch model between its modules and of its parameters."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from parity.calls import Call, Sink, Watch, watching, whole
from parity.causes.source import Mistake
from parity.causes.torch_gradients import stopped
from parity.frameworks.torch import capture as capture_torch
from parity.gradients import (
    GradientWatch,
    Isolated,
    IsolatedRun,
    Parameters,
    by_key,
    holders,
    parameter_tap,
    terms_of,
)
from parity.masks import Masks
from parity.names import Naming
from parity.provenance import provenance
from parity.trace import Axes, Tap, Trace


class GradientRecorder(IsolatedRun, capture_torch.Recorder):
    """Runs a PyTorch model forward and backward, and records its gradients as taps.

    Args:
        model: any module, in the mode (train or eval) it is to be run in.
        axes: axes(path, kind, name, rank) gives the axis names of an activation's gradient.
        loss: loss(outputs) is the scalar that is differentiated, or the terms by name whose sum is.
        parameters: what holds a tensor of the reference, by its key, with what makes of their
            gradients that of the tensor; by default all that require gradients, under their own.
        execution: `eager`.
        masks: the dropout masks; by default the framework draws its own.
        naming: which modules and tensors are recorded, and under which names; by default all.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        axes: Axes,
        loss: Callable[[Any], torch.Tensor],
        parameters: Parameters | None = None,
        execution: str = "eager",
        masks: Masks | None = None,
        naming: Naming | None = None,
    ) -> None:
        super().__init__(model, axes, execution, masks=masks, naming=naming)
        self.loss = loss
        self.parameters = parameters or {
            key: ((one,), lambda gradient: gradient)
            for key, one in model.named_parameters()
            if one.requires_grad
        }
        self.terms: dict[str, float] = {}
        self._seeds: list[torch.Tensor] = []

    def __call__(self, inputs: tuple | dict, sink: Sink | None = None) -> tuple[float, Trace]:
        """The loss, whose `terms` are kept, and the trace of gradients, last module first.

        Tensors on which no parameter has an influence, or which have none on the loss, have no
        gradient. `sink` receives the taps in place of the trace, each when it is computed; its
        array is valid during that call only.
        """
        args, kwargs = capture_torch.to_tensors(inputs)
        trace = Trace(provenance=provenance(framework="torch", execution="eager"))
        put = self.viewed(sink or trace.add)
        left: dict[int, Tap] = {}

        def hand(number: int, gradient: torch.Tensor | None) -> None:
            if gradient is not None:
                put(replace(left.pop(number), array=capture_torch.view(gradient)))

        def emit(call: Call, kind: str, name: str, tensor: torch.Tensor) -> None:
            if not tensor.requires_grad:
                return
            zero = capture_torch.view(torch.zeros((), dtype=tensor.dtype))
            zeros = np.broadcast_to(zero, tensor.shape)
            axes = self.axes(call.path, kind, name, tensor.dim())
            number = len(left)
            left[number] = Tap(call.path, f"grad_{kind}", name, call.call, axes, zeros)
            # A hook in place of the tensor, which goes when no gradient needs it; and at once,
            # since a later one would be of what an operation in place makes of the tensor.
            tensor.register_hook(partial(hand, number))

        watch = self._gradient_watch(emit)
        terms = terms_of(self.loss(self._run(watch, self.model, args, kwargs)))
        total = sum(terms.values())
        self.terms = {name: float(term.detach()) for name, term in terms.items()}
        self.calls, self.drawn = watch.calls, watch.drawn
        parameters = holders(self.parameters)
        # Of all, since the backward pass goes only where one of these is.
        trained = [one for one in self.model.parameters() if one.requires_grad]
        wanted = [*parameters.values(), *trained]
        found = torch.autograd.grad(total, wanted, allow_unused=True)
        for tap in left.values():
            if whole(tap.name) is not None:  # the stack has zeros there
                put(tap)
        own = dict(zip(parameters, map(_numpy, found), strict=False))
        for key, gradient in by_key(self.parameters, own).items():
            if gradient is not None:
                (sink or trace.add)(parameter_tap(key, gradient))
        return float(total.detach()), trace

    def perturbed(self, seed: int) -> AbstractContextManager:
        """The model with its weights moved by up to one unit in the last place."""
        return capture_torch.perturbed(self.model, seed)

    def isolate_gradients(self, alone: Isolated, call: Call) -> dict[str, Tap]:
        """What one call passes back, alone, by key; see `parity.gradients.backward_places`."""
        self._seeds = []
        leaves, pairs, received = self._run_alone(alone, call)
        own = {name: self.parameters[name] for name in alone.parameters if name in self.parameters}
        pairs = [(tensor, gradient) for tensor, gradient in pairs if tensor.requires_grad]
        held = holders(own)
        wanted = [*leaves.values(), *held.values(), *self._seeds]
        if not pairs or not wanted:
            return {}
        found = torch.autograd.grad(
            [tensor for tensor, _ in pairs],
            wanted,
            [gradient for _, gradient in pairs],
            allow_unused=True,
        )
        arrays = list(map(_numpy, found))
        return self._taps(
            call,
            dict(zip(leaves, arrays, strict=False)),
            by_key(own, dict(zip(held, arrays[len(leaves) :], strict=False))),
            {place: capture_torch.view(gradient) for place, gradient in received.items()},
        )

    def stopped_gradients(self, alone: Isolated) -> Iterator[Mistake]:
        """The mistakes of stopping one gradient in a call that is run alone."""
        return stopped(lambda: self.isolate_gradients(alone, alone.call))

    def _gradient_watch(
        self, emit: Callable = lambda *tap: None, replace: Callable = lambda call: None
    ) -> GradientWatch:
        return GradientWatch(
            self._paths,
            torch.is_tensor,
            self.call_signature,
            emit,
            replace,
            naming=self.naming,
            own=_own,
            returned=_changed_alike,
        )

    def _run(self, watch: Watch, module: torch.nn.Module, args: tuple, kwargs: dict) -> Any:
        classes = map(type, self.modules.values())
        with torch.enable_grad(), self._masked(watch), watching(classes, watch):
            return self._called(module, args, kwargs)

    def _leaf(self, array: np.ndarray, dtype: Any, needed: bool) -> torch.Tensor:
        tensor = torch.tensor(array)
        tensor = tensor if dtype is None else tensor.to(dtype)
        return tensor.requires_grad_(needed)

    def _linked(self, inputs: list, outputs: list, gradients: list, receive: Callable) -> list:
        # A tensor of its own makes the stand-in part of the graph whatever it is given.
        seed = torch.zeros((), dtype=torch.float64, requires_grad=True)
        self._seeds.append(seed)
        count = len(inputs)
        return list(_StandIn.apply(receive, gradients, count, seed, *inputs, *outputs))


class _StandIn(torch.autograd.Function):
    """Returns given tensors, and passes given gradients back whatever it receives."""

    @staticmethod
    def forward(ctx: Any, receive: Callable, gradients: list, count: int, seed: Any, *tensors: Any):
        ctx.set_materialize_grads(False)
        ctx.receive, ctx.gradients, ctx.outputs = receive, gradients, len(tensors) - count
        return tuple(tensor.clone() for tensor in tensors[count:])

    @staticmethod
    def backward(ctx: Any, *received: Any):
        for index, gradient in enumerate(received):
            if gradient is not None:
                ctx.receive(index, gradient)
        seed = torch.zeros((), dtype=torch.float64)
        return (None, None, None, seed, *ctx.gradients, *[None] * ctx.outputs)


def _numpy(gradient: torch.Tensor | None) -> np.ndarray | None:
    return None if gradient is None else capture_torch.view(gradient)


def _own(tensor: torch.Tensor) -> torch.Tensor:
    """A copy on the tape: hooks of a tensor that shares its memory are lost where it is changed in
    place."""
    return tensor.clone() if tensor.requires_grad else tensor


def _changed_alike(tensor: torch.Tensor, own: torch.Tensor) -> None:
    """Where a module changed in place what it was given, the tensor is changed like its copy."""
    if own is not tensor and own._version and not tensor.is_leaf:
        tensor.copy_(own)
