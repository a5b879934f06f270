"""Taps of a TensorFlow model, eager, as a graph and under XLA."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from parity import calls
from parity.calls import (
    Call,
    Collector,
    Sink,
    Slot,
    Watch,
    fill,
    flatten,
    is_array,
    largest_gap,
    watching,
)
from parity.frameworks.shared.floors import Moving
from parity.frameworks.tensorflow.masks import fed_masks
from parity.frameworks.tensorflow.modules import (
    at_rest,
    call_signature,
    is_symbolic,
    named_modules,
    takes_training,
)
from parity.frameworks.tensorflow.reordered import reordered
from parity.frameworks.tensorflow.weights import variables
from parity.masks import Drawn, Keeps, Masks
from parity.metrics import Gap, gap
from parity.names import Naming
from parity.provenance import provenance
from parity.trace import Axes, Tap, Trace, TraceError, shown, tap_key

EXECUTIONS = ("eager", "graph", "xla")
# Grappler's rewrites that look at which tensors are fetched: with them, reading a tensor would
# change how its neighbours are computed (fused convolutions, reassociated products).
FETCH_DEPENDENT = ("remapping", "arithmetic_optimization")


@dataclass(frozen=True)
class _Place:
    """Where a tap of a traced function comes from; `fetch` counts its distinct tensors."""

    path: str
    kind: str
    name: str
    call: int
    axes: str
    fetch: int
    same_as: str | None


@dataclass
class _Program:
    """A model traced for one signature, with or without taps."""

    function: Any
    outputs: Any = None
    places: tuple[_Place, ...] = ()
    calls: tuple[Call, ...] = ()
    drawn: dict[str, Drawn] = field(default_factory=dict)


class Recorder(Moving, calls.Recorder):
    """Runs a TensorFlow model and records its taps; one trace per signature of the inputs.

    The taps are results of the same function as the outputs, so that they come out alike in eager
    mode, as a graph, and under XLA. In a graph, the rewrites that depend on which tensors are
    read (`FETCH_DEPENDENT`) are off for `plain` and for capture, whose outputs are therefore bit
    for bit the same; `forward` is the graph as it is run in production, with all rewrites.

    Args:
        model: a tf_keras layer or model, or a callable tf.Module. A layer that is not built yet
            is called once.
        axes: axes(path, kind, name, rank) gives the axis names of a tensor.
        execution: `eager`, `graph` or `xla`.
        only: a module path, whose taps and those below it are recorded, or a glob; None for all.
        masks: the dropout masks of captured runs; by default the framework draws its own.
        naming: which modules and tensors are recorded, and under which names; by default all but
            those in private attributes, under their own.
    """

    # How the layers of one Keras are found and called; those of another extend this class.
    named_modules = staticmethod(named_modules)
    call_signature = staticmethod(call_signature)
    is_symbolic = staticmethod(is_symbolic)
    variables = staticmethod(variables)
    reordered = staticmethod(reordered)

    def __init__(
        self,
        model: tf.Module,
        axes: Axes,
        execution: str = "eager",
        *,
        only: str | None = None,
        masks: Masks | None = None,
        naming: Naming | None = None,
    ) -> None:
        if execution not in EXECUTIONS:
            raise TraceError(
                f"TensorFlow has no `{execution}` execution",
                f"there are {', '.join(EXECUTIONS)}",
                "name one of them",
            )
        super().__init__(model, axes, only, masks, naming)
        self.execution = execution
        self.traces = 0
        self._programs: dict[Any, _Program] = {}
        self._paths: dict[int, str] = {}

    def forward(self, inputs: tuple | dict) -> Any:
        """The outputs as numpy arrays, computed as in production: no taps, all rewrites."""
        return self._without_taps(inputs, rewrites=True)

    def plain(self, inputs: tuple | dict) -> Any:
        """The outputs as numpy arrays, without taps, in graphs without `FETCH_DEPENDENT`."""
        return self._without_taps(inputs, rewrites=False)

    def __call__(self, inputs: tuple | dict, sink: Sink | None = None) -> tuple[Any, Trace]:
        """The outputs as numpy arrays, and the trace.

        Args:
            inputs: a tuple of positional or a dict of named arguments; numpy arrays become
                tensors.
            sink: receives each tap as it arrives, in place of the trace; its array is valid
                during that call only.
        """
        self.modules_of(inputs)
        trace = Trace(provenance=provenance(framework="tensorflow", execution=self.execution))
        if self.execution == "eager":
            return self._eager(inputs, sink, trace), trace
        program, arguments = self._program(inputs, taps=True)
        with self._rewrites(allowed=False):
            outputs, fetched = program.function(*arguments)
        self.calls, self.drawn = list(program.calls), program.drawn
        found = self.viewed(sink or trace.add)
        last = {place.fetch: index for index, place in enumerate(program.places)}
        arrays: dict[int, np.ndarray] = {}
        for index, place in enumerate(program.places):
            if place.fetch not in arrays:
                arrays[place.fetch] = to_array(fetched[place.fetch])
                fetched[place.fetch] = None
            array = arrays[place.fetch]
            if sink is not None and last[place.fetch] == index:
                del arrays[place.fetch]
            found(
                Tap(
                    place.path, place.kind, place.name, place.call, place.axes, array, place.same_as
                )
            )
        return _filled(program.outputs, outputs), trace

    def _eager(self, inputs: tuple | dict, sink: Sink | None, trace: Trace) -> Any:
        keep = sink is None
        collect = Collector(self.axes, self.viewed(sink or trace.add), to_array, keep=keep)

        def emit(call: Call, kind: str, name: str, tensor: Any) -> None:
            if self._selected(call.path):
                collect(call.path, kind, name, call.call, tensor)

        watch = self._watch(emit)
        args, kwargs = calls.split_inputs(to_tensors(inputs))
        outputs = self._run(watch, self.model, args, kwargs)
        self.calls, self.drawn = watch.calls, watch.drawn
        return _numpy(outputs)

    def _without_taps(self, inputs: tuple | dict, *, rewrites: bool) -> Any:
        self.modules_of(inputs)
        if self.execution == "eager":
            args, kwargs = calls.split_inputs(to_tensors(inputs))
            return _numpy(self._called(self.model, args, kwargs))
        program, arguments = self._program(inputs, taps=False)
        with self._rewrites(allowed=rewrites):
            outputs, _ = program.function(*arguments)
        return _filled(program.outputs, outputs)

    def modules_of(self, inputs: tuple | dict) -> dict[str, tf.Module]:
        """The model's modules by path; a layer that is not built yet is called on `inputs`."""
        if not self._paths:
            if not getattr(self.model, "built", True):
                args, kwargs = calls.split_inputs(to_tensors(inputs))
                self._called(self.model, args, kwargs)
            found = self.named_modules(self.model, private=self.naming is not None)
            self.modules = self._watched(found)
            self._paths = {id(module): path for path, module in self.modules.items()}
        return self.modules

    def _program(self, inputs: tuple | dict, *, taps: bool) -> tuple[_Program, list[tf.Tensor]]:
        template, tensors = flatten(to_tensors(inputs), tf.is_tensor, records=True)
        arguments = [tensor for _, tensor in tensors]
        key = (taps, repr(template), *((tuple(t.shape), t.dtype) for t in arguments))
        if key not in self._programs:
            self._programs[key] = self._traced(template, tensors, taps)
        return self._programs[key], arguments

    def _traced(self, template: Any, tensors: list[tuple[str, tf.Tensor]], taps: bool) -> _Program:
        program = _Program(None)
        names = [name for name, _ in tensors]

        def run(*arguments: tf.Tensor) -> Any:
            self.traces += 1
            given = dict(zip(names, arguments, strict=True))
            args, kwargs = calls.split_inputs(fill(template, lambda slot: given[slot.name]))
            fetches = _Fetches(self.axes)

            def emit(call: Call, kind: str, name: str, tensor: Any) -> None:
                if self._selected(call.path):
                    fetches.add(call, kind, name, tensor)

            if taps:
                watch = self._watch(emit)
                outputs = self._run(watch, self.model, args, kwargs)
                program.calls, program.drawn = tuple(watch.calls), watch.drawn
            else:
                outputs = self._called(self.model, args, kwargs)
            program.outputs, results = flatten(outputs, tf.is_tensor)
            program.places = tuple(fetches.places)
            return [tensor for _, tensor in results], fetches.tensors

        signature = [tf.TensorSpec(tensor.shape, tensor.dtype) for _, tensor in tensors]
        # Without autograph: layers are plain Python while they are traced, converting each would
        # only cost time.
        function = tf.function(
            run, input_signature=signature, autograph=False, jit_compile=self.execution == "xla"
        )
        program.function = function.get_concrete_function()
        return program

    @contextmanager
    def _rewrites(self, *, allowed: bool) -> Iterator[None]:
        """Graphs run inside with or without the rewrites of `FETCH_DEPENDENT`."""
        if allowed or self.execution != "graph":  # XLA would compile once more, to the same
            yield
            return
        before = tf.config.optimizer.get_experimental_options()
        try:
            tf.config.optimizer.set_experimental_options(dict.fromkeys(FETCH_DEPENDENT, False))
            yield
        finally:
            tf.config.optimizer.set_experimental_options(
                {name: before.get(name, True) for name in FETCH_DEPENDENT}
            )

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

    def _fed(self, keeps: Keeps) -> AbstractContextManager:
        return fed_masks(keeps)

    def _run(self, watch: Watch, module: tf.Module, args: tuple, kwargs: dict) -> Any:
        with self._masked(watch), watching(map(type, self.modules.values()), watch):
            return self._called(module, args, kwargs)

    def _called(self, module: tf.Module, args: tuple, kwargs: dict) -> Any:
        """What a module returns that no other module calls."""
        return _called(module, args, kwargs)

    def _collector(self, sink: Sink) -> Collector:
        return Collector(self.axes, self.viewed(sink), to_array, keep=True)

    def _tensor(self, array: np.ndarray, slot: Slot | None) -> tf.Tensor:
        tensor = tf.constant(array)
        wanted = None if slot is None else slot.dtype
        return tensor if wanted in (None, tensor.dtype) else tf.cast(tensor, wanted)


class _Fetches:
    """The distinct tensors that a traced function returns as taps, and where each was met."""

    def __init__(self, axes: Axes) -> None:
        self.tensors: list[tf.Tensor] = []
        self.places: list[_Place] = []
        self._axes = axes
        self._graph = tf.compat.v1.get_default_graph()
        self._met: dict[int, tuple[int, str]] = {}
        self._alive: list[Any] = []

    def add(self, call: Call, kind: str, name: str, tensor: Any) -> None:
        """Note one tap; a tensor of another graph raises TraceError."""
        fetch, first = self._met.get(id(tensor), (len(self.tensors), None))
        axes = self._axes(call.path, kind, name, tensor.shape.rank)
        place = _Place(call.path, kind, name, call.call, axes, fetch, first)
        self.places.append(place)
        if first is not None:
            return
        if getattr(tensor, "graph", self._graph) is not self._graph:
            raise TraceError(
                f"{shown(call.path)} runs inside a loop or a branch of the graph",
                "its tensors exist within tf.while_loop, tf.cond or an inner tf.function only",
                "capture the module around it, or unroll the loop",
            )
        self._met[id(tensor)] = (fetch, tap_key(call.path, kind, name, call.call))
        self._alive.append(tensor)
        self.tensors.append(tf.convert_to_tensor(tensor))


def _called(module: tf.Module, args: tuple, kwargs: dict) -> Any:
    """What a module returns; it is told not to train, unless the arguments say otherwise."""
    if kwargs.get("training"):
        return module(*args, **kwargs)
    if takes_training(module):
        kwargs = {"training": False, **kwargs}
    with at_rest():
        return module(*args, **kwargs)


def capture(
    model: tf.Module,
    inputs: tuple | dict,
    *,
    axes: Axes,
    execution: str = "eager",
    only: str | None = None,
    sink: Sink | None = None,
) -> tuple[Any, Trace]:
    """The outputs (numpy) and the trace of one run; see `Recorder` for the arguments."""
    return Recorder(model, axes, execution, only=only)(inputs, sink)


def forward(model: tf.Module, inputs: tuple | dict, execution: str = "eager") -> Any:
    """The outputs (numpy) of one run without capture, as in production."""
    return Recorder(model, lambda path, kind, name, rank: "", execution).forward(inputs)


def capture_effect(recorder: Recorder, inputs: tuple | dict) -> dict[str, Gap]:
    """By how much the outputs change because taps are read: gap of each from `forward`'s.

    Zero in eager mode. In a graph it is the effect of the rewrites that capture switches off, under
    XLA that of fusions which taps prevent.
    """
    expected = flatten(recorder.forward(inputs), is_array)[1]
    outputs, _ = recorder(inputs, lambda tap: None)
    found = dict(flatten(outputs, is_array)[1])
    return {name: gap(found[name], array) for name, array in expected}


def capture_effects(recorder: Recorder, inputs: tuple | dict, captured: Any) -> dict[str, float]:
    """What reading the taps changes, the largest l2 gap of an output of the captured run.

    From the same program without taps ("same program"; not XLA, which compiles another), and from
    the program that is run when nothing is captured ("production"; not eager, where it is the
    same).
    """
    effects = {}
    if recorder.execution != "xla":
        effects["same program"] = largest_gap(captured, recorder.plain(inputs))
    if recorder.execution != "eager":
        effects["production"] = largest_gap(captured, recorder.forward(inputs))
    return effects


def is_tensor(value: Any) -> bool:
    """Whether a value is a tensor or a variable."""
    return isinstance(value, tf.Tensor | tf.Variable)


def to_array(tensor: Any) -> np.ndarray:
    """The values of a tensor; bfloat16 as float32, which is exact."""
    array = np.asarray(tf.convert_to_tensor(tensor))
    return array.astype(np.float32) if tensor.dtype == tf.bfloat16 else array


def to_tensors(inputs: tuple | dict) -> tuple | dict:
    """`inputs` with tensors in place of arrays."""
    template, arrays = flatten(inputs, is_array, records=True)
    made = {name: tf.constant(array) for name, array in arrays}
    return fill(template, lambda slot: made[slot.name])


def _filled(template: Any, tensors: list[tf.Tensor]) -> Any:
    arrays = iter(tensors)
    return fill(template, lambda slot: to_array(next(arrays)).copy())


def _numpy(outputs: Any) -> Any:
    template, tensors = flatten(outputs, is_tensor)
    return _filled(template, [tensor for _, tensor in tensors])
