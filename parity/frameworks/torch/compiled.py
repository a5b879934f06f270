"""Taps of a PyTorch model compiled by `torch.compile`, its operations fused by Inductor."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException
from torch.fx.experimental.proxy_tensor import make_fx

from parity import calls
from parity.calls import Call, Sink, fill, flatten, is_array
from parity.frameworks.torch import capture
from parity.provenance import provenance
from parity.trace import Tap, Trace, TraceError, tap_key


@dataclass
class _Program:
    """A model compiled for one signature: where its taps are, and its outputs' structure."""

    function: Any = None
    outputs: Any = None
    places: list[tuple[Call, str, str, int, str | None]] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)


class Recorder(capture.Recorder):
    """Runs a PyTorch model as one compiled program and records its taps; one for each signature.

    The model is traced operation by operation, as it runs, and its taps are results of the program
    beside its outputs. The program without taps, `forward`, is what `torch.compile` makes of the
    model itself. Arguments are those of `capture.Recorder`, which are given by name.

    Raises: TraceError for a model that cannot be traced or compiled here.
    """

    EXECUTION = "compile"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._programs: dict[Any, _Program] = {}

    def forward(self, inputs: tuple | dict) -> Any:
        """The outputs of the compiled model as numpy arrays, without taps."""
        args, kwargs = capture.to_tensors(inputs)
        with torch.no_grad():
            return capture.to_arrays(_run(torch.compile(self.model), *args, **kwargs))

    def __call__(self, inputs: tuple | dict, sink: Sink | None = None) -> tuple[Any, Trace]:
        """The outputs as numpy arrays, and the trace; as `capture.Recorder`."""
        trace = Trace(provenance=provenance(framework="torch", execution="compile"))
        found = self.viewed(sink or trace.add)
        template, arrays = flatten(inputs, is_array, records=True)
        tensors = [torch.tensor(array) for _, array in arrays]
        key = (repr(template), *((tuple(one.shape), one.dtype) for one in tensors))
        if key not in self._programs:
            self._programs[key] = self._traced(template, [name for name, _ in arrays], tensors)
        program = self._programs[key]
        with torch.no_grad():
            made = [capture.to_array(one) for one in _run(program.function, *tensors)]
        self.calls = program.calls
        for call, kind, name, index, same_as in program.places:
            array = made[index]
            axes = self.axes(call.path, kind, name, array.ndim)
            found(Tap(call.path, kind, name, call.call, axes, array, same_as))
        outputs = iter(made)
        return fill(program.outputs, lambda slot: next(outputs)), trace

    def _traced(self, template: Any, names: list[str], tensors: list[torch.Tensor]) -> _Program:
        program = _Program()

        def run(*arguments: torch.Tensor) -> list[torch.Tensor]:
            given = dict(zip(names, arguments, strict=True))
            args, kwargs = calls.split_inputs(fill(template, lambda slot: given[slot.name]))
            fetched = _Fetched()

            def emit(call: Call, kind: str, name: str, tensor: torch.Tensor) -> None:
                if self._selected(call.path):
                    key = tap_key(call.path, kind, name, call.call)
                    program.places.append((call, kind, name, *fetched.place(tensor, key)))

            watch = self._watch(emit)
            outputs = self._run(watch, self.model, args, kwargs)
            program.outputs, results = flatten(outputs, torch.is_tensor)
            program.calls = watch.calls
            count = len(results)
            program.places = [
                (call, kind, name, count + index, first)
                for call, kind, name, index, first in program.places
            ]
            return [*(one for _, one in results), *fetched.tensors]

        try:
            graph = make_fx(run)(*tensors)
        except TraceError:
            raise
        except Exception as error:  # whatever the model does that no tracer can follow
            raise _refused("cannot be traced", error) from None
        program.function = torch.compile(graph)
        return program


class _Fetched:
    """Tensors as they are when they are met, each once; some are changed in place afterwards."""

    def __init__(self) -> None:
        self.tensors: list[torch.Tensor] = []
        self._met: dict[int, tuple[weakref.ref, int, int, str]] = {}

    def place(self, tensor: torch.Tensor, key: str) -> tuple[int, str | None]:
        """The number of the tensor, and the key under which it was met first, None for now."""
        held, stamp, index, first = self._met.get(id(tensor), (None, 0, 0, ""))
        if held is not None and held() is tensor and stamp == tensor._version:
            return index, first
        self._met[id(tensor)] = weakref.ref(tensor), tensor._version, len(self.tensors), key
        self.tensors.append(tensor.clone())
        return len(self.tensors) - 1, None


def _run(function: Callable, *args: Any, **kwargs: Any) -> Any:
    """What a compiled function returns; it is compiled when it is first called."""
    try:
        return function(*args, **kwargs)
    except TorchDynamoException as error:
        raise _refused("cannot be compiled", error) from None


def _refused(what: str, error: Exception) -> TraceError:
    lines = str(error).strip().splitlines() or [""]
    return TraceError(
        f"the model {what} by PyTorch",
        f"{type(error).__name__}: {lines[0]}",
        "leave the execution `compile` out; on the CPU, Inductor needs a C++ compiler as well",
    )
