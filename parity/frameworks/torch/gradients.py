"""Gradients of a PyTorch model between its modules and of its parameters."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

from parity.calls import Call, Sink, Watch, watching
from parity.causes.source import Mistake
from parity.causes.torch_gradients import stopped
from parity.frameworks.torch import capture as capture_torch
from parity.gradients import GradientWatch, Isolated, IsolatedRun
from parity.masks import Masks
from parity.provenance import provenance
from parity.trace import Axes, Tap, Trace

LETTERS = "ABCDEFGH"  # axes of parameters, in PyTorch's order


class GradientRecorder(IsolatedRun, capture_torch.Recorder):
    """Runs a PyTorch model forward and backward, and records its gradients as taps.

    Args:
        model: any module, in the mode (train or eval) it is to be run in.
        axes: axes(path, kind, name, rank) gives the axis names of an activation's gradient.
        loss: loss(outputs) is the scalar that is differentiated.
        masks: the dropout masks; by default the framework draws its own.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        axes: Axes,
        loss: Callable[[Any], torch.Tensor],
        masks: Masks | None = None,
    ) -> None:
        super().__init__(model, axes, masks=masks)
        self.loss = loss
        self._seeds: list[torch.Tensor] = []

    def __call__(self, inputs: tuple | dict, sink: Sink | None = None) -> tuple[float, Trace]:
        """The loss and the trace of gradients, in the order of the backward pass.

        Tensors on which no parameter has an influence, or which have none on the loss, have no
        gradient. `sink` receives the taps in place of the trace.
        """
        args, kwargs = capture_torch.to_tensors(inputs)
        met: list[tuple[Call, str, str, torch.Tensor]] = []

        def emit(call: Call, kind: str, name: str, tensor: torch.Tensor) -> None:
            if tensor.requires_grad:
                met.append((call, kind, name, tensor))

        watch = self._gradient_watch(emit)
        total = self.loss(self._run(watch, self.model, args, kwargs))
        self.calls, self.drawn = watch.calls, watch.drawn
        met.reverse()
        parameters = [(k, p) for k, p in self.model.named_parameters() if p.requires_grad]
        tensors = [tensor for *_, tensor in met] + [parameter for _, parameter in parameters]
        found = torch.autograd.grad(total, tensors, allow_unused=True)
        trace = Trace(provenance=provenance(framework="torch", execution="eager"))
        put = sink or trace.add
        for (call, kind, name, tensor), gradient in zip(met, found, strict=False):
            if gradient is not None:
                axes = self.axes(call.path, kind, name, tensor.dim())
                put(Tap(call.path, f"grad_{kind}", name, call.call, axes, gradient.numpy()))
        for (key, _), gradient in zip(parameters, found[len(met) :], strict=True):
            if gradient is not None:
                path, _, name = key.rpartition(".")
                axes = LETTERS[: gradient.dim()]
                put(Tap(path, "param_grad", name, 0, axes, gradient.numpy()))
        return float(total.detach()), trace

    def perturbed(self, seed: int) -> AbstractContextManager:
        """The model with its weights moved by up to one unit in the last place."""
        return capture_torch.perturbed(self.model, seed)

    def isolate_gradients(self, alone: Isolated, call: Call) -> dict[str, Tap]:
        """What one call passes back, alone, by key; see `parity.gradients.backward_places`."""
        self._seeds = []
        leaves, pairs, received = self._run_alone(alone, call)
        named = dict(self.model.named_parameters())
        parameters = {name: named[name] for name in alone.parameters}
        pairs = [(tensor, gradient) for tensor, gradient in pairs if tensor.requires_grad]
        wanted = [*leaves.values(), *parameters.values(), *self._seeds]
        if not pairs or not wanted:
            return {}
        found = torch.autograd.grad(
            [tensor for tensor, _ in pairs],
            wanted,
            [gradient for _, gradient in pairs],
            allow_unused=True,
        )
        arrays = [None if g is None else g.numpy() for g in found]
        own = zip(parameters, arrays[len(leaves) :], strict=False)
        return self._taps(
            call,
            dict(zip(leaves, arrays, strict=False)),
            {n: (array, "" if array is None else LETTERS[: array.ndim]) for n, array in own},
            {key: (path, name, g.numpy()) for key, (path, name, g) in received.items()},
        )

    def stopped_gradients(self, alone: Isolated) -> Iterator[Mistake]:
        """The mistakes of stopping one gradient in a call that is run alone."""
        return stopped(lambda: self.isolate_gradients(alone, alone.call))

    def _gradient_watch(
        self, emit: Callable = lambda *tap: None, replace: Callable = lambda call: None
    ) -> GradientWatch:
        return GradientWatch(
            self._paths, torch.is_tensor, self.call_signature, emit, replace, own=_own
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


def _own(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view_as(tensor) if tensor.requires_grad else tensor
