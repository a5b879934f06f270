"""Taps of a PyTorch model, and how far its own rounding moves them."""

import inspect
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from parity import calls
from parity.calls import Call, Collector, Feeds, Sink, Slot, Watch, fill, flatten, watching
from parity.frameworks.torch.masks import FedMasks
from parity.masks import Keeps, Masks
from parity.metrics import Gap, perturb_ulp, worst
from parity.names import Naming
from parity.pairing import Comparison, tap_gap
from parity.provenance import provenance
from parity.trace import Axes, Tap, Trace, TraceError


class Recorder(calls.Recorder):
    """Runs a PyTorch model without gradients and records its taps; the model is not changed.

    Args:
        model: any module, in the mode (train or eval) it is to be run in.
        axes: axes(path, kind, name, rank) gives the axis names of a tensor.
        execution: `eager`, the only way in which PyTorch is run here.
        only: a module path, whose taps and those below it are recorded, or a glob; None for all.
        clone: copy tensors, so that in-place operations of the model cannot change them later.
            Without copies such an operation raises TraceError.
        masks: the dropout masks of captured runs; by default the framework draws its own.
        naming: which modules and tensors are recorded, and under which names; by default all.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        axes: Axes,
        execution: str = "eager",
        *,
        only: str | None = None,
        clone: bool = True,
        masks: Masks | None = None,
        naming: Naming | None = None,
    ) -> None:
        if execution != "eager":
            raise TraceError(
                f"PyTorch cannot be captured in `{execution}` execution",
                "taps come from the calls of its modules, one by one",
                "use eager",
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
            return _numpy(self._called(self.model, args, kwargs))

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
        convert = _copy if keep and self.clone else _view
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
        return _numpy(outputs), trace

    def owns_parameters(self, path: str) -> bool:
        """Whether the module itself, apart from its children, holds parameters."""
        return next(self.modules[path].parameters(recurse=False), None) is not None

    def isolated_floors(
        self,
        call: Call,
        feeds: Feeds,
        children: Mapping[tuple[str, int], Feeds],
        expected: Mapping[str, Tap],
        seeds: Sequence[int] = (0, 1),
    ) -> dict[str, Gap]:
        """How far rounding alone moves the taps of a module that is run alone, from `expected`.

        Inputs, stand-ins and weights are moved by up to one unit in the last place, once per seed,
        and sums are reordered once; the largest gap of each tap counts. Arguments as in `isolate`.
        """
        runs = []
        for seed in seeds:
            with perturbed(self.modules[call.path], seed):
                runs.append(self.isolate(call, feeds, children, moved=_Moved(seed)))
        with reordered():
            runs.append(self.isolate(call, feeds, children))
        return {
            key: worst(tap_gap(run[key], tap) for run in runs if key in run)
            for key, tap in expected.items()
        }

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
        return Collector(self.axes, self.viewed(sink), _copy, _stamp, keep=True)

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
        return _numpy(model(*args, **kwargs))


def measure_floors(
    recorder: Recorder,
    inputs: tuple | dict,
    reference: Mapping[str, Tap],
    *,
    seeds: Sequence[int] = (0,),
    reorder: bool = True,
    observe: Callable[[Any], None] = lambda outputs: None,
) -> dict[str, Gap]:
    """How far rounding alone moves each tap of a model from the same taps of `reference`.

    The model is run once per seed with inputs and weights moved by up to one unit in the last
    place, and once with its sums reordered; the largest gap of each tap counts. With a float64
    model and its own trace this is the floor of the float64 claim; with a float32 model and the
    float64 trace that of the float32 claim. `observe` receives the outputs of each of these runs.
    """
    found: list[dict[str, Gap]] = []
    for seed in seeds:
        comparison = Comparison(reference)
        with perturbed(recorder.model, seed):
            observe(recorder(perturb_inputs(inputs, seed), comparison)[0])
        found.append(comparison.gaps)
    if reorder:
        comparison = Comparison(reference)
        with reordered():
            observe(recorder(inputs, comparison)[0])
        found.append(comparison.gaps)
    keys = [key for key in reference if any(key in gaps for gaps in found)]
    return {key: worst(gaps[key] for gaps in found if key in gaps) for key in keys}


def perturb_inputs(inputs: tuple | dict, seed: int) -> tuple | dict:
    """The inputs with each float array moved by up to one unit in the last place, as numpy."""
    template, arrays = flatten(inputs, _is_array, records=True)
    moved = {name: perturb_ulp(_array(array), _mixed(seed, name)) for name, array in arrays}
    return fill(template, lambda slot: moved[slot.name])


@contextmanager
def perturbed(module: torch.nn.Module, seed: int) -> Iterator[torch.nn.Module]:
    """`module` with each weight and float buffer moved by up to one unit in the last place.

    The tensors themselves come back when the context ends, bit for bit.
    """
    tensors = [*module.named_parameters(), *module.named_buffers()]
    originals = [tensor.data for _, tensor in tensors]
    try:
        for name, tensor in tensors:
            moved = perturb_ulp(tensor.detach().numpy(), _mixed(seed, name))
            tensor.data = torch.from_numpy(moved)
        yield module
    finally:
        for (_, tensor), original in zip(tensors, originals, strict=True):
            tensor.data = original


@contextmanager
def reordered() -> Iterator[None]:
    """Compute every sum of products, norm and softmax with its terms in reverse order.

    The results are mathematically the same; only rounding differs. Inside the context PyTorch's
    convolutions, matrix products, layer and group norms, softmax, means, sums and vector norms are
    affected.
    """
    with _Reversed():
        yield


class _Reversed(TorchDispatchMode):
    """Turns the summed axis of each operation's operands around."""

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        rewrite = _REVERSALS.get(operation)
        if rewrite is None:
            return operation(*args, **kwargs)
        return rewrite(operation, *args, **kwargs)


def _reverse_convolution(
    operation: Any,
    x: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Any:
    rest = (bias, stride, padding, dilation, transposed, output_padding, groups)
    if transposed or groups != 1:
        return operation(x, weight, *rest)
    return operation(x.flip(1), weight.flip(1), *rest)


def _reverse_product(operation: Any, a: Any, b: Any) -> Any:
    return operation(a.flip(-1), b.flip(-2))


def _reverse_added_product(operation: Any, bias: Any, a: Any, b: Any, **scales: Any) -> Any:
    return operation(bias, a.flip(-1), b.flip(-2), **scales)


def _reverse_layer_norm(
    operation: Any, x: Any, shape: Sequence[int], weight: Any, bias: Any, eps: float
) -> Any:
    axes = list(range(-len(shape), 0))
    weight, bias = (None if t is None else t.flip(axes) for t in (weight, bias))
    out, mean, deviation = operation(x.flip(axes), shape, weight, bias, eps)
    return out.flip(axes), mean, deviation


def _reverse_group_norm(operation: Any, x: Any, *rest: Any) -> Any:
    axes = list(range(2, x.dim()))
    out, mean, deviation = operation(x.flip(axes), *rest)
    return out.flip(axes), mean, deviation


def _reverse_softmax(operation: Any, x: Any, axis: int, *rest: Any) -> Any:
    return operation(x.flip(axis), axis, *rest).flip(axis)


def _reverse_sum(operation: Any, x: Any, axes: Any = None, *rest: Any, **kwargs: Any) -> Any:
    turned = list(range(x.dim())) if axes is None or not len(axes) else list(axes)
    return operation(x.flip(turned), axes, *rest, **kwargs)


def _reverse_total(operation: Any, x: Any, **kwargs: Any) -> Any:
    return operation(x.flip(list(range(x.dim()))), **kwargs)


def _reverse_norm(
    operation: Any, x: Any, order: Any = 2, axes: Any = None, *rest: Any, **kwargs: Any
) -> Any:
    turned = list(range(x.dim())) if axes is None or not len(axes) else list(axes)
    return operation(x.flip(turned), order, axes, *rest, **kwargs)


_ATEN = torch.ops.aten
_REVERSALS = {
    _ATEN.convolution.default: _reverse_convolution,
    _ATEN.mm.default: _reverse_product,
    _ATEN.bmm.default: _reverse_product,
    _ATEN.addmm.default: _reverse_added_product,
    _ATEN.baddbmm.default: _reverse_added_product,
    _ATEN.native_layer_norm.default: _reverse_layer_norm,
    _ATEN.native_group_norm.default: _reverse_group_norm,
    _ATEN._softmax.default: _reverse_softmax,
    _ATEN._safe_softmax.default: _reverse_softmax,
    _ATEN.mean.dim: _reverse_sum,
    _ATEN.sum.dim_IntList: _reverse_sum,
    _ATEN.mean.default: _reverse_total,
    _ATEN.sum.default: _reverse_total,
    _ATEN.linalg_vector_norm.default: _reverse_norm,
}


class _Moved:
    """Moves the array of each tap by up to one unit in the last place, always the same way."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __call__(self, tap: Tap) -> Tap:
        return replace(tap, array=perturb_ulp(tap.array, _mixed(self._seed, tap.key)))


def _mixed(seed: int, name: str) -> int:
    return zlib.crc32(f"{seed} {name}".encode())


def _stamp(tensor: torch.Tensor) -> int:
    return tensor._version


def _view(tensor: torch.Tensor) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:
        return tensor.detach().float().numpy()
    return tensor.detach().cpu().numpy()


def _copy(tensor: torch.Tensor) -> np.ndarray:
    array = _view(tensor)
    return array.copy() if np.may_share_memory(array, _view(tensor)) else array


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray | torch.Tensor)


def _array(value: np.ndarray | torch.Tensor) -> np.ndarray:
    return value if isinstance(value, np.ndarray) else _view(value)


def to_tensors(inputs: tuple | dict) -> tuple[tuple, dict]:
    """Positional and keyword arguments, with tensors in place of the arrays of `inputs`."""
    template, arrays = flatten(inputs, lambda value: isinstance(value, np.ndarray), records=True)
    made = {name: torch.tensor(array) for name, array in arrays}
    return calls.split_inputs(fill(template, lambda slot: made[slot.name]))


def _numpy(outputs: Any) -> Any:
    template, tensors = flatten(outputs, torch.is_tensor)
    arrays = {name: _copy(tensor) for name, tensor in tensors}
    return fill(template, lambda slot: arrays[slot.name])
