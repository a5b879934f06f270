"""A framework of NumPy functions, as somebody might add one from outside."""

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np

from parity import calls
from parity.calls import Call, Collector, Feeds, Sink, Slot, Watch, is_array, largest_gap, watching
from parity.frameworks.registry import Entry
from parity.masks import Keeps
from parity.metrics import Gap, perturb_ulp, worst
from parity.names import Naming
from parity.pairing import Comparison, tap_gap
from parity.trace import Axes, Tap, Trace
from parity.weights import SAME, Variable


class Layer:
    """A function of arrays: its tensors are attributes, as are the layers that it calls."""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.run(x)


class Linear(Layer):
    def __init__(self, rows: int, columns: int, seed: int = 0) -> None:
        draw = np.random.default_rng(seed).normal
        self.weight = draw(size=(rows, columns)).astype(np.float32)
        self.bias = draw(size=rows).astype(np.float32)

    def run(self, x: np.ndarray) -> np.ndarray:
        return x @ self.weight.T + self.bias


class Norm(Layer):
    def __init__(self, size: int, epsilon: float = 1e-5) -> None:
        self.scale, self.epsilon = np.linspace(0.5, 2, size).astype(np.float32), epsilon

    def run(self, x: np.ndarray) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        spread = np.sqrt((centred * centred).mean(-1, keepdims=True) + self.epsilon)
        return centred / spread * self.scale


class Block(Layer):
    def __init__(self, size: int, seed: int, epsilon: float = 1e-5) -> None:
        self.norm = Norm(size, epsilon)
        self.up, self.down = Linear(2 * size, size, seed), Linear(size, 2 * size, seed + 1)

    def run(self, x: np.ndarray) -> np.ndarray:
        return x + self.down(np.maximum(self.up(self.norm(x)), 0))


class Model(Layer):
    def __init__(self, seed: int = 0, epsilon: float = 1e-5) -> None:
        self.first, self.second = Block(6, seed), Block(6, seed + 2, epsilon)

    def run(self, x: np.ndarray) -> np.ndarray:
        return self.second(self.first(x))


class NumPy:
    """The framework."""

    NAME = "NumPy"
    EXECUTIONS = ("eager",)
    IMAGES: Mapping[int, str] = {}
    explain = None
    trainer = None
    mend = None

    def copied(self, model: Layer, dtype: str) -> Layer:
        return self.converted(copy.deepcopy(model), dtype)

    def converted(self, model: Layer, dtype: str) -> Layer:
        for one in self.variables(model).values():
            one.assign(one.read().astype(dtype))
        return model

    def precision(self, dtype: str) -> AbstractContextManager:
        return nullcontext()

    def in_training(self, model: Layer) -> bool:
        return False

    def modules(self, model: Layer) -> dict[str, Layer]:
        found = {"": model}
        for name, child in vars(model).items():
            if isinstance(child, Layer):
                for path, one in self.modules(child).items():
                    found[f"{name}.{path}" if path else name] = one
        return found

    def variables(self, model: Layer) -> dict[str, Variable]:
        return {
            f"{path}.{name}": self._variable(path, layer, name)
            for path, layer in self.modules(model).items()
            for name, value in vars(layer).items()
            if isinstance(value, np.ndarray)
        }

    def _variable(self, path: str, layer: Layer, name: str) -> Variable:
        def read() -> np.ndarray:
            return getattr(layer, name)

        def assign(array: np.ndarray) -> None:
            setattr(layer, name, array)

        return Variable(path, name, SAME, read().shape, read, assign)

    def recorder(
        self,
        model: Layer,
        axes: Axes,
        execution: str,
        *,
        only: str | None = None,
        copies: bool = True,
        naming: Naming | None = None,
    ) -> "Recorder":
        return Recorder(model, axes, only, naming)

    def measure_floors(
        self,
        recorder: "Recorder",
        inputs: Any,
        reference: Mapping[str, Tap],
        *,
        seeds: Sequence[int] = (0, 1),
        reorder: bool = True,
        observe: Callable[[Any], None],
    ) -> dict[str, Gap]:
        runs = []
        for seed in seeds:
            comparison = Comparison(reference)
            with moved(recorder.model, seed):
                observe(recorder(inputs, comparison)[0])
            runs.append(comparison.gaps)
        return {key: worst(gaps[key] for gaps in runs) for key in reference}

    def capture_effects(self, recorder: "Recorder", inputs: Any, captured: Any) -> dict[str, float]:
        return {"same program": largest_gap(captured, recorder.model(*inputs))}


FRAMEWORK = NumPy()
ENTRY = Entry("NumPy", "numpy", f"{__name__}.Layer", lambda: FRAMEWORK)


@contextmanager
def moved(model: Layer, seed: int) -> Iterator[None]:
    """Every tensor is one unit in the last place away."""
    before = {path: one.read() for path, one in FRAMEWORK.variables(model).items()}
    try:
        for path, one in FRAMEWORK.variables(model).items():
            one.assign(perturb_ulp(before[path], seed))
        yield
    finally:
        for path, one in FRAMEWORK.variables(model).items():
            one.assign(before[path])


class Recorder(calls.Recorder):
    """Records the calls of layers."""

    def __init__(self, model: Layer, axes: Axes, only: str | None, naming: Naming | None) -> None:
        super().__init__(model, axes, only, naming=naming)
        self.modules = self._watched(FRAMEWORK.modules(model))
        self._paths = {id(module): path for path, module in self.modules.items()}

    def __call__(self, inputs: Any, sink: Sink | None = None) -> tuple[Any, Trace]:
        trace = Trace()
        collect = self._collector(sink or trace.add)

        def emit(call: Call, kind: str, name: str, tensor: np.ndarray) -> None:
            if self._selected(call.path):
                collect(call.path, kind, name, call.call, tensor)

        watch = self._watch(emit)
        outputs = self._run(watch, self.model, *calls.split_inputs(inputs))
        self.calls = watch.calls
        return outputs, trace

    def owns_parameters(self, path: str) -> bool:
        return any(isinstance(value, np.ndarray) for value in vars(self.modules[path]).values())

    def isolated_floors(
        self, call: Call, feeds: Feeds, children: Any, expected: Mapping[str, Tap]
    ) -> dict[str, Gap]:
        with moved(self.modules[call.path], 2):
            run = self.isolate(call, feeds, children)
        return {key: tap_gap(run[key], tap) for key, tap in expected.items()}

    def _fed(self, keeps: Keeps) -> AbstractContextManager:
        return nullcontext()

    def _watch(self, emit: Callable, replace: Callable = lambda call: None) -> Watch:
        return Watch(self._paths, is_array, _signature, emit, replace, naming=self.naming)

    def _run(self, watch: Watch, module: Layer, args: tuple, kwargs: dict) -> Any:
        with watching(map(type, self.modules.values()), watch):
            return module(*args, **kwargs)

    def _collector(self, sink: Sink) -> Collector:
        return Collector(self.axes, self.viewed(sink), np.array, keep=True)

    def _tensor(self, array: np.ndarray, slot: Slot | None) -> np.ndarray:
        return np.array(array, None if slot is None else slot.dtype)


def _signature(module: Layer) -> inspect.Signature:
    return inspect.signature(module.run)
