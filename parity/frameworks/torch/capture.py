"""Taps of a PyTorch model."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from parity import calls
from parity.calls import Call, Collector, Sink, Slot, Watch, fill, flatten, watching
from parity.frameworks.shared.floors import Moving, mixed
from parity.frameworks.shared.floors import measure_floors as measure_floors
from parity.frameworks.torch.masks import FedMasks
from parity.frameworks.torch.reordered import reordered as reordered
from parity.frameworks.torch.weights import variables
from parity.masks import Keeps, Masks
from parity.metrics import perturb_ulp
from parity.names import Naming
from parity.provenance import provenance
from parity.trace import Axes, Trace, TraceError


class Recorder(Moving, calls.Recorder):
    """Runs a PyTorch model without gradients and records its taps; the model is not changed.

    Args:
        model: any module, in the mode (train or eval) it is to be run in.
        axes: axes(path, kind, name, rank) gives the axis names of a tensor.
        execution: that of the recorder, `eager`.
        only: a module path, whose taps and those below it are recorded, or a glob; None for all.
        clone: copy tensors, so that in-place operations of the model cannot change them later.
            Without copies such an operation raises TraceError.
        masks: the dropout masks of captured runs; by default the framework draws its own.
        naming: which modules and tensors are recorded, and under which names; by default all.
    """

    EXECUTION = "eager"
    variables = staticmethod(variables)
    reordered = staticmethod(reordered)

    def __init__(
        self,
        model: torch.nn.Module,
        axes: Axes,
        execution: str = EXECUTION,
        *,
        only: str | None = None,
        clone: bool = True,
        masks: Masks | None = None,
        naming: Naming | None = None,
    ) -> None:
        if execution != self.EXECUTION:
            raise TraceError(
                f"PyTorch cannot be captured in `{execution}` execution",
                "taps come from the calls of its modules, one by one",
                f"use {self.EXECUTION}",
            )
        super().__init__(model, axes, only, masks, naming)
        self.clone = clone
        self._find(model.named_modules())

    def _find(self, modules: Iterable[tuple[str, torch.nn.Module]]) -> None:
        self.modules = self._watched(dict(modules))
        self._paths = {id(module): path for path, module in self.modules.items()}

    def forward(self, inputs: tuple | dict) -> Any:
        """The outputs without capture, as numpy arrays."""
        self.modules_of(inputs)
        args, kwargs = to_tensors(inputs)
        with torch.no_grad():
            return to_arrays(self._called(self.model, args, kwargs))

    plain = forward

    def __call__(self, inputs: tuple | dict, sink: Sink | None = None) -> tuple[Any, Trace]:
        """The outputs as numpy arrays, and the trace.

        Args:
            inputs: a tuple of positional or a dict of named arguments; numpy arrays become
                tensors.
            sink: receives each tap as it is computed, in place of the trace; its array is valid
                during that call only.
        """
        self.modules_of(inputs)
        args, kwargs = to_tensors(inputs)
        trace = Trace(provenance=provenance(framework="torch", execution="eager"))
        keep = sink is None
        guard = keep and not self.clone
        convert = to_array if keep and self.clone else view
        found = self.viewed(sink or trace.add)
        collect = Collector(self.axes, found, convert, _stamp, keep=keep, guard=guard)

        def emit(call: Call, kind: str, name: str, tensor: torch.Tensor) -> None:
            if self._selected(call.path):
                collect(call.path, kind, name, call.call, tensor)

        watch = self._watch(emit)
        outputs = self._run(watch, self.model, args, kwargs)
        changed = collect.changed_in_place()
        if changed is not None:
            raise TraceError(
                f"{changed} was changed in place after it was recorded",
                "the model was captured without copies",
                "capture with clone=True",
            )
        self.calls, self.drawn = watch.calls, watch.drawn
        return to_arrays(outputs), trace

    def owns_parameters(self, path: str) -> bool:
        """Whether the module itself, apart from its children, holds parameters."""
        return next(self.modules[path].parameters(recurse=False), None) is not None

    @contextmanager
    def moved(self, path: str, seed: int) -> Iterator[None]:
        """As `parity.frameworks.shared.floors.Moving`; the tensors themselves come back."""
        with perturbed(self.modules[path] if path else self.model, seed):
            yield

    def _watch(self, emit: Callable, replace: Callable = lambda call: None) -> Watch:
        return Watch(
            self._paths, torch.is_tensor, self.call_signature, emit, replace, naming=self.naming
        )

    def _fed(self, keeps: Keeps) -> FedMasks:
        return FedMasks(keeps)

    def _run(self, watch: Watch, module: torch.nn.Module, args: tuple, kwargs: dict) -> Any:
        classes = map(type, self.modules.values())
        with torch.no_grad(), self._masked(watch), watching(classes, watch):
            return self._called(module, args, kwargs)

    def _called(self, module: torch.nn.Module, args: tuple, kwargs: dict) -> Any:
        """What a module returns that no other module calls."""
        return module(*args, **kwargs)

    @staticmethod
    def call_signature(module: torch.nn.Module) -> inspect.Signature:
        """The signature that calls of a module follow, without self."""
        return inspect.signature(module.forward)

    def _collector(self, sink: Sink) -> Collector:
        return Collector(self.axes, self.viewed(sink), to_array, _stamp, keep=True)

    def _tensor(self, array: np.ndarray, slot: Slot | None) -> torch.Tensor:
        # A copy, because the module may work in place.
        tensor = torch.tensor(array)
        return tensor if slot is None or slot.dtype is None else tensor.to(slot.dtype)


def capture(
    model: torch.nn.Module,
    inputs: tuple | dict,
    *,
    axes: Axes,
    execution: str = "eager",
    only: str | None = None,
    clone: bool = True,
    sink: Sink | None = None,
) -> tuple[Any, Trace]:
    """The outputs (numpy) and the trace of one run; see `Recorder` for the arguments."""
    return Recorder(model, axes, execution, only=only, clone=clone)(inputs, sink)


def forward(model: torch.nn.Module, inputs: tuple | dict) -> Any:
    """The outputs (numpy) of one run without capture."""
    args, kwargs = to_tensors(inputs)
    with torch.no_grad():
        return to_arrays(model(*args, **kwargs))


@contextmanager
def perturbed(module: torch.nn.Module, seed: int) -> Iterator[torch.nn.Module]:
    """`module` with each weight and float buffer moved by up to one unit in the last place.

    The tensors themselves come back when the context ends, bit for bit.
    """
    tensors = [*module.named_parameters(), *module.named_buffers()]
    originals = [tensor.data for _, tensor in tensors]
    try:
        for name, tensor in tensors:
            moved = perturb_ulp(tensor.detach().numpy(), mixed(seed, name))
            tensor.data = torch.from_numpy(moved)
        yield module
    finally:
        for (_, tensor), original in zip(tensors, originals, strict=True):
            tensor.data = original


def _stamp(tensor: torch.Tensor) -> int:
    return tensor._version


def view(tensor: torch.Tensor) -> np.ndarray:
    """The values, in the tensor's own memory where that can be; bfloat16 as float32."""
    if tensor.dtype == torch.bfloat16:
        return tensor.detach().float().numpy()
    return tensor.detach().cpu().numpy()


def to_array(tensor: torch.Tensor) -> np.ndarray:
    """A copy of the values; bfloat16 as float32, which is exact."""
    array = view(tensor)
    return array.copy() if np.may_share_memory(array, view(tensor)) else array


def to_tensors(inputs: tuple | dict) -> tuple[tuple, dict]:
    """Positional and keyword arguments, with tensors in place of the arrays of `inputs`."""
    template, arrays = flatten(inputs, lambda value: isinstance(value, np.ndarray), records=True)
    made = {name: torch.tensor(array) for name, array in arrays}
    return calls.split_inputs(fill(template, lambda slot: made[slot.name]))


def to_arrays(outputs: Any) -> Any:
    """A structure of tensors with NumPy arrays in their place."""
    template, tensors = flatten(outputs, torch.is_tensor)
    arrays = {name: to_array(tensor) for name, tensor in tensors}
    return fill(template, lambda slot: arrays[slot.name])
