"""Taps of models that compute with JAX, eager and under `jit`."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parity import calls
from parity.calls import Call, Collector, Sink, Slot, Watch, fill, flatten, is_array, largest_gap
from parity.frameworks.jax.masks import fed_masks
from parity.frameworks.jax.reordered import reordered
from parity.frameworks.shared.floors import Moving
from parity.masks import Drawn, Keeps, Masks
from parity.names import Naming
from parity.provenance import provenance
from parity.trace import Axes, Tap, Trace, TraceError, shown, tap_key

EXECUTIONS = ("eager", "jit")


@dataclass
class _Program:
    """A model traced for one signature: where its taps are, and its outputs' structure."""

    function: Any
    outputs: Any = None
    places: list[tuple[Call, str, str, str, int, str | None]] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    changes: list[Callable[[Any], None]] = field(default_factory=list)
    drawn: dict[str, Drawn] = field(default_factory=dict)


class Recorder(Moving, calls.Recorder):
    """Runs a model and records its taps; one trace per signature of the inputs.

    The model is run as a pure function of its state and its inputs; what a run changes, such as
    batch statistics, is given to the model afterwards. Under `jit` the taps are results of the same
    function as the outputs. Subclasses say how a model of theirs is found, held and called.

    Args:
        model: as its framework gives it, with its weights.
        axes: axes(path, kind, name, rank) gives the axis names of a tensor.
        execution: `eager` or `jit`.
        only: a module path, whose taps and those below it are recorded, or a glob; None for all.
        masks: the dropout masks of captured runs; by default the framework draws its own.
        naming: which modules and tensors are recorded, and under which names; by default all.
    """

    reordered = staticmethod(reordered)

    def __init__(
        self,
        model: Any,
        axes: Axes,
        execution: str = "eager",
        *,
        only: str | None = None,
        masks: Masks | None = None,
        naming: Naming | None = None,
    ) -> None:
        if execution not in EXECUTIONS:
            raise TraceError(
                f"JAX has no `{execution}` execution",
                f"there are {', '.join(EXECUTIONS)}",
                "name one of them",
            )
        super().__init__(model, axes, only, masks, naming)
        self.execution = execution
        self._programs: dict[Any, _Program] = {}
        self._paths: dict[int, str] = {}
        self.changed: list[tuple[Callable[[Any], None], Any]] = []

    @abstractmethod
    def _found(self, inputs: tuple | dict) -> Mapping[str, Any]:
        """The modules by their own path; a model that is not built yet is called on `inputs`."""

    @abstractmethod
    def _state(self) -> Any:
        """The arrays that the model holds, a tree of JAX."""

    @abstractmethod
    def _applied(
        self, watch: Watch | None, state: Any, module: Any, args: tuple, kwargs: dict
    ) -> Any:
        """What `module` returns where the model holds `state`; `changed` gets what it changes."""

    def modules_of(self, inputs: tuple | dict) -> dict[str, Any]:
        """The modules by the path they are recorded under; a model that is not built yet is built
        by a call on `inputs`."""
        if not self._paths:
            self.modules = self._watched(self._found(inputs))
            self._paths = {id(module): path for path, module in self.modules.items()}
        return self.modules

    def forward(self, inputs: tuple | dict) -> Any:
        """The outputs as numpy arrays, without taps."""
        self.modules_of(inputs)
        if self.execution == "eager":
            args, kwargs = calls.split_inputs(to_tensors(inputs))
            outputs = _numpy(self._applied(None, self._state(), self.model, args, kwargs))
            self._keep(self.changed)
            return outputs
        program, arguments = self._program(inputs, taps=False)
        outputs, _, changed = program.function(self._state(), arguments)
        self._keep(zip(program.changes, changed, strict=True))
        return _filled(program.outputs, outputs)

    plain = forward

    def __call__(self, inputs: tuple | dict, sink: Sink | None = None) -> tuple[Any, Trace]:
        """The outputs as numpy arrays, and the trace.

        Args:
            inputs: a tuple of positional or a dict of named arguments; numpy arrays become arrays
                of JAX.
            sink: receives each tap as it arrives, in place of the trace.
        """
        self.modules_of(inputs)
        trace = Trace(provenance=provenance(framework="jax", execution=self.execution))
        found = self.viewed(sink or trace.add)
        if self.execution == "eager":
            collect = Collector(self.axes, found, to_array, keep=sink is None)

            def emit(call: Call, kind: str, name: str, tensor: Any) -> None:
                if self._selected(call.path):
                    collect(call.path, kind, name, call.call, _known(call, tensor))

            watch = self._watch(emit)
            args, kwargs = calls.split_inputs(to_tensors(inputs))
            outputs = _numpy(self._run(watch, self.model, args, kwargs))
            self._keep(self.changed)
            self.calls, self.drawn = watch.calls, watch.drawn
            return outputs, trace
        program, arguments = self._program(inputs, taps=True)
        outputs, fetched, changed = program.function(self._state(), arguments)
        self._keep(zip(program.changes, changed, strict=True))
        self.calls, self.drawn = list(program.calls), program.drawn
        arrays = [to_array(tensor) for tensor in fetched]
        for call, kind, name, axes, fetch, same_as in program.places:
            found(Tap(call.path, kind, name, call.call, axes, arrays[fetch], same_as))
        return _filled(program.outputs, outputs), trace

    @property
    def drops_nothing(self) -> bool:
        """Whether layers of dropout return what they are given."""
        return self.masks is not None and self.masks.seed is None

    @staticmethod
    def _keep(changed: Iterable[tuple[Callable[[Any], None], Any]]) -> None:
        for assign, value in changed:
            assign(value)

    def _program(self, inputs: tuple | dict, *, taps: bool) -> tuple[_Program, list[jax.Array]]:
        template, tensors = flatten(to_tensors(inputs), is_tensor)
        arguments = [tensor for _, tensor in tensors]
        key = (taps, repr(template), *((tensor.shape, tensor.dtype) for tensor in arguments))
        if key not in self._programs:
            self._programs[key] = self._traced(template, [name for name, _ in tensors], taps)
        return self._programs[key], arguments

    def _traced(self, template: Any, names: list[str], taps: bool) -> _Program:
        def run(state: Any, arguments: list[Any]) -> tuple[list[Any], list[Any], list[Any]]:
            given = dict(zip(names, arguments, strict=True))
            args, kwargs = calls.split_inputs(fill(template, lambda slot: given[slot.name]))
            met: dict[int, tuple[int, str]] = {}
            fetched: list[Any] = []
            program.places.clear()

            def emit(call: Call, kind: str, name: str, tensor: Any) -> None:
                if not self._selected(call.path):
                    return
                axes = self.axes(call.path, kind, name, tensor.ndim)
                fetch, first = met.get(id(tensor), (len(fetched), None))
                program.places.append((call, kind, name, axes, fetch, first))
                if first is None:
                    met[id(tensor)] = (fetch, tap_key(call.path, kind, name, call.call))
                    fetched.append(_known(call, tensor, arguments))

            watch = self._watch(emit) if taps else None
            if watch is None:
                outputs = self._applied(None, state, self.model, args, kwargs)
            else:
                with self._masked(watch):
                    outputs = self._applied(watch, state, self.model, args, kwargs)
                program.calls, program.drawn = watch.calls, watch.drawn
            program.outputs, results = flatten(outputs, is_tensor)
            program.changes = [assign for assign, _ in self.changed]
            return [one for _, one in results], fetched, [value for _, value in self.changed]

        program = _Program(jax.jit(run))
        return program

    def _watch(self, emit: Callable, replace: Callable = lambda call: None) -> Watch:
        return Watch(
            self._paths,
            is_tensor,
            self.call_signature,
            emit,
            replace,
            self.is_symbolic,
            self.naming,
        )

    @staticmethod
    def is_symbolic(argument: Any) -> bool:
        """Whether a module is only being built with this argument."""
        return False

    def _fed(self, keeps: Keeps) -> AbstractContextManager:
        return fed_masks(keeps)

    def _run(self, watch: Watch, module: Any, args: tuple, kwargs: dict) -> Any:
        with self._masked(watch):
            return self._applied(watch, self._state(), module, args, kwargs)

    def _collector(self, sink: Sink) -> Collector:
        return Collector(self.axes, self.viewed(sink), to_array, keep=True)

    def _tensor(self, array: np.ndarray, slot: Slot | None) -> jax.Array:
        return jnp.asarray(array, None if slot is None else slot.dtype)


def capture_effects(recorder: Recorder, inputs: tuple | dict, captured: Any) -> dict[str, float]:
    """What reading the taps changes, the largest l2 gap of an output of the captured run; under
    `jit` the program without taps is another one."""
    kind = "same program" if recorder.execution == "eager" else "production"
    return {kind: largest_gap(captured, recorder.forward(inputs))}


def is_tensor(value: Any) -> bool:
    """Whether a value is an array of JAX, or stands for one while a function is traced."""
    return isinstance(value, jax.Array)


def to_array(tensor: Any) -> np.ndarray:
    """The values of an array; bfloat16 as float32, which is exact."""
    array = np.asarray(tensor)
    return array.astype(np.float32) if tensor.dtype == jnp.bfloat16 else array


def to_tensors(inputs: tuple | dict) -> tuple | dict:
    """`inputs` with arrays of JAX in place of those of NumPy."""
    template, arrays = flatten(inputs, is_array)
    made = {name: jnp.asarray(array) for name, array in arrays}
    return fill(template, lambda slot: made[slot.name])


def _known(call: Call, tensor: Any, arguments: list[Any] | None = None) -> Any:
    """The tensor, where its values leave the function that is run; else raises TraceError."""
    outer = next((one._trace for one in arguments or () if isinstance(one, jax.core.Tracer)), None)
    if isinstance(tensor, jax.core.Tracer) and tensor._trace is not outer:
        raise TraceError(
            f"{shown(call.path)} runs inside a transformation of JAX",
            "its tensors exist within jit, scan, vmap, remat or cond only",
            "leave it out of `Names(modules=...)`, which judges the module around it, or unroll it",
        )
    return tensor


def _filled(template: Any, tensors: list[Any]) -> Any:
    arrays = iter(tensors)
    return fill(template, lambda slot: to_array(next(arrays)).copy())


def _numpy(outputs: Any) -> Any:
    template, tensors = flatten(outputs, is_tensor)
    return _filled(template, [tensor for _, tensor in tensors])
