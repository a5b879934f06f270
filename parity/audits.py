"""Any PyTorch model beside its TensorFlow port: from the two to a result, in one call."""

import copy
import fnmatch
import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from parity.audit_result import (
    BY_IDENTITY,
    Measured,
    Precision,
    build_result,
    isolated_claim,
)
from parity.calls import fill, flatten
from parity.errors import InputError
from parity.names import Names
from parity.records import json_text
from parity.trace import Axes, Trace, tap_key
from parity.weights import Weights

if TYPE_CHECKING:
    import tensorflow as tf
    import torch

    from parity.frameworks.tensorflow.capture import Recorder as PortRecorder
    from parity.frameworks.torch.capture import Recorder as ReferenceRecorder

Inputs = tuple | dict[str, Any]
AxesByPlace = Mapping[int | str, str]
REFERENCE_AXES: AxesByPlace = {5: "NCDHW", 4: "NCHW"}
PORT_AXES: AxesByPlace = {5: "NDHWC", 4: "NHWC"}
OTHER_AXES: AxesByPlace = {3: "NSC", 2: "NX", 1: "X", 0: ""}
EXECUTIONS = ("eager", "graph", "xla")
SAME_PATHS = Names()
BY_LAYER = Weights()
AUDIT = "audit.json"
NOT_VERIFIED = (
    "losses, gradients and weight updates",
    "inputs other than these",
    "data pipelines, and what is made of the outputs",
)


@dataclass(frozen=True)
class Pair:
    """Two models that should compute the same, and how their parts belong together.

    Args:
        reference: the PyTorch model with its weights, in float32 and in eval mode.
        port: builds the TensorFlow model. It is called once for each precision; layers of Keras
            that it builds compute in that precision, unless they fix one.
        inputs: the reference's arguments as NumPy arrays, a tuple of positional or a dict of named
            ones; floats are given in float32.
        port_inputs: the port's; by default `inputs`, with the axes of each in the port's order.
        names: the declared map between modules and tensors; by default modules have the same paths.
        weights: what of the weights does not follow from the pairs of layers; None where `port`
            builds the model with its weights.
        axes, port_axes: one letter for each axis of a tensor, by its number of axes, or by its
            place, such as `*.norm:*`, with the reference's path; places go first. What is not
            listed is an image, the channels last in the port and first after the batch in the
            reference, or has the same axes on both sides. Or a function
            axes(path, kind, name, rank).
        stage: the part of the model that a module belongs to, for the report; by default the first
            part of its path.
        after_loading: changes each port once it has its weights, such as to plant a fault.

    Example:
        >>> import numpy, tf_keras, torch
        >>> reference = torch.nn.Linear(4, 2).eval()
        >>> images = numpy.ones((3, 4), "float32")
        >>> pair = parity.Pair(reference, lambda: tf_keras.layers.Dense(2), (images,))
    """

    reference: "torch.nn.Module"
    port: Callable[[], "tf.Module"]
    inputs: Inputs
    port_inputs: Inputs | None = None
    names: Names = SAME_PATHS
    weights: Weights | None = BY_LAYER
    axes: AxesByPlace | Axes = field(default_factory=dict)
    port_axes: AxesByPlace | Axes = field(default_factory=dict)
    stage: Callable[[str], str] = lambda path: path.partition(".")[0] or "outputs"
    after_loading: Callable[["tf.Module"], None] | None = None


def audit(
    pair: Pair,
    *,
    executions: Sequence[str] = EXECUTIONS,
    isolate: bool = False,
    title: str = "Audit",
    command: str = "parity.audits.audit(pair)",
    quiet: bool = False,
) -> dict[str, Any]:
    """Compare every paired tensor, find the places at fault, and say why: a result for `save`.

    Args:
        executions: how the port is run in float32; without any, only float64 is compared.
        isolate: run every module alone on the reference's inputs, even where nothing differs.
        title, command: what the report calls it, and what measures it again.
        quiet: print no progress.
    Raises: InputError where the pair cannot be compared: the reference in training mode, an unknown
        name in the map, weights that do not match, a port that cannot run in float64.

    Example:
        >>> import numpy, tf_keras, torch
        >>> reference, images = torch.nn.Linear(4, 2).eval(), numpy.ones((3, 4), "float32")
        >>> pair = parity.Pair(reference, lambda: tf_keras.layers.Dense(2), (images,))
        >>> result = parity.audit(pair, executions=["graph"], quiet=True)
        >>> result["verdict"]
        'equal'
    """
    from parity.causes.explain import explain
    from parity.frameworks.torch.capture import Recorder, measure_floors
    from parity.localise import localise
    from parity.pairing import Comparison
    from parity.provenance import provenance

    _check(pair, executions)
    steps = _Steps(quiet)
    axes, naming = _axes(pair.axes, REFERENCE_AXES), pair.names.reference_side()

    def recorder_of(dtype: str) -> "ReferenceRecorder":
        import torch

        model = copy.deepcopy(pair.reference).to(getattr(torch, dtype))
        return Recorder(model, axes, naming=naming)

    inputs64 = _cast(pair.inputs, "float64")
    with steps("reference, float64"):
        reference = recorder_of("float64")
        _, trace = reference(inputs64)
    with steps("rounding floor, float64"):
        measured = Measured(trace.places(), measure_floors(reference, inputs64, trace))
    if executions:
        with steps("reference and rounding floor, float32"):
            reference32, inputs32 = recorder_of("float32"), _cast(pair.inputs, "float32")
            comparison = Comparison(trace)
            reference32(inputs32, comparison)
            measured.reference32 = comparison.gaps
            measured.floors32 = measure_floors(reference32, inputs32, trace)
            del reference32
    with steps("port, float64"):
        port64 = _Port(pair, trace, "float64", measured)
        recorder64 = port64.recorder()
        comparison = Comparison(trace)
        port64.run(recorder64, comparison)
        measured.function, measured.unpaired = comparison.gaps, comparison.unpaired
        measured.missing = comparison.missing()
    if not measured.function:
        raise InputError(
            "no tensor of the port has a counterpart in the reference",
            f"the port's: {_few(measured.unpaired)}",
            f"the reference's: {_few(measured.missing)}",
            "declare in `Names` which modules and tensors belong together",
        )
    port32 = None
    for execution in executions:
        with steps(f"port, float32, {execution}"):
            port32 = port32 or _Port(pair, trace, "float32")
            comparison = Comparison(trace, ulps=lambda key: True)
            port32.run(port32.recorder(execution), comparison)
            measured.executions[execution] = Precision(comparison.gaps)
    localisations, alone = [], {}
    if measured.differs or isolate:
        with steps("localise and explain"), port64.precision():
            localisations = localise(
                reference,
                recorder64,
                trace,
                port64.inputs,
                measured.floors,
                explain,
                everywhere=isolate,
                observe=lambda verdicts: alone.update({one.key: one for one in verdicts}),
            )
    claims = [isolated_claim(alone, localisations, command)] if isolate and alone else []
    declared = [*pair.names.reasons, *(pair.weights.reasons if pair.weights else ())]
    result = build_result(
        measured,
        localisations,
        command=command,
        inputs=_described(pair.inputs),
        timings=steps.timings,
        provenance=provenance(weights_sha256=_digest(_state(pair.reference))),
        not_verified=(*NOT_VERIFIED, *declared),
        stage=pair.stage,
        pairing=_pairing(pair.names),
        further_claims=claims,
    )
    return {**result, "title": title}


def save(result: Mapping[str, Any], folder: str | Path) -> Path:
    """Write the result to `folder`/audit.json, whole or not at all; returns the path.

    `parity report` and `parity explain` read it.

    Example:
        >>> import tempfile
        >>> result = {"verdict": "equal"}  # what `parity.audit` returns has much more
        >>> parity.save(result, tempfile.mkdtemp()).name
        'audit.json'
    """
    folder = Path(folder)
    text = json_text(result)
    temporary = folder / f".{AUDIT}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(folder / AUDIT)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written",
            f"{type(error).__name__}: {error.strerror or error}",
            "choose another folder, or free some space",
        ) from None
    return folder / AUDIT


@dataclass
class _Steps:
    """Announces steps on standard error, and records how long each took."""

    quiet: bool
    timings: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, title: str) -> Iterator[None]:
        self._print(f"{title} ...", "")
        start = time.perf_counter()
        try:
            yield
        except BaseException:
            self._print(" stopped", "\n")
            raise
        self.timings[title] = time.perf_counter() - start
        self._print(f" {self.timings[title]:.1f} s", "\n")

    def _print(self, text: str, end: str) -> None:
        if not self.quiet:
            print(text, end=end, file=sys.stderr, flush=True)


def _check(pair: Pair, executions: Sequence[str]) -> None:
    if pair.reference.training:
        raise InputError(
            "the reference is in training mode",
            "dropout and batch statistics would make every run another one",
            "call reference.eval() first",
        )
    unknown = [name for name in executions if name not in EXECUTIONS]
    if unknown:
        raise InputError(
            f"TensorFlow has no `{unknown[0]}` execution", f"there are {', '.join(EXECUTIONS)}"
        )


class _Port:
    """The port in one precision, with the reference's weights.

    What becomes of the weights is noted in `measured`.
    """

    def __init__(
        self, pair: Pair, trace: Trace, dtype: str, measured: Measured | None = None
    ) -> None:
        from parity.frameworks.tensorflow import weights as weights_tf

        self._dtype, self._axes = dtype, _axes(pair.port_axes, PORT_AXES)
        self._naming = pair.names.port_side(_places(trace))
        self.inputs = _cast(_port_inputs(pair), dtype)
        with self._usable("eager"):
            self.model = pair.port()
            self.recorder().modules_of(self.inputs)
        if pair.weights is not None:
            state = _state(pair.reference)
            held = weights_tf.load(self.model, state, pair.names, pair.weights)
            if measured is not None:
                returned = {one.key: one.returned(state[one.key].dtype) for one in held}
                measured.tensors_converted = len(held)
                measured.returned_sha256 = _digest(returned)
                measured.tensors_changed = [
                    key for key, array in returned.items() if not _same_bits(array, state[key])
                ]
        elif measured is not None:
            measured.tensors_converted = None
        if pair.after_loading is not None:
            pair.after_loading(self.model)

    def recorder(self, execution: str = "eager") -> "PortRecorder":
        from parity.frameworks.tensorflow.capture import Recorder

        return Recorder(self.model, self._axes, execution, naming=self._naming)

    def run(self, recorder: "PortRecorder", sink: Callable) -> None:
        with self._usable(recorder.execution):
            recorder(self.inputs, sink)

    def precision(self) -> AbstractContextManager:
        """Inside it, Keras builds in the port's precision."""
        from parity.frameworks.tensorflow.precision import computing_in

        return computing_in(self._dtype)

    @contextmanager
    def _usable(self, execution: str) -> Iterator[None]:
        try:
            with self.precision():
                yield
        except InputError:
            raise
        except Exception as error:  # whatever the user's model raises
            raise _unusable(f"{self._dtype}, {execution}", error) from error


def _places(trace: Trace) -> dict[tuple[str, str], list[str]]:
    """The names of the reference's tensors by the path and kind of their taps."""
    places: dict[tuple[str, str], list[str]] = {}
    for tap in trace.values():
        names = places.setdefault((tap.path, tap.kind), [])
        if tap.name not in names:
            names.append(tap.name)
    return places


def _unusable(how: str, error: Exception) -> InputError:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return InputError(
        f"the port cannot run in {how}",
        f"{type(error).__name__}: {lines[0] if lines else ''}",
        "let its layers take their precision from Keras; see docs/port_your_model.md, "
        '"A model that fixes its precision"',
    )


def _state(reference: "torch.nn.Module") -> dict[str, np.ndarray]:
    """The reference's float tensors by key."""
    tensors = reference.state_dict().items()
    return {key: value.detach().numpy() for key, value in tensors if value.is_floating_point()}


def _same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.tobytes() == np.ascontiguousarray(b).tobytes()


def _digest(state: Mapping[str, np.ndarray]) -> str:
    """sha256 over names, dtypes, shapes and bytes, in order."""
    digest = hashlib.sha256()
    for key, array in state.items():
        digest.update(f"{key} {array.dtype.name} {list(array.shape)}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _axes(given: AxesByPlace | Axes, images: AxesByPlace) -> Axes:
    """The names of axes as a function of the place; `images` for those that are not given."""
    if callable(given):
        return given
    by_rank = {**OTHER_AXES, **images, **given}
    patterns = {place: letters for place, letters in given.items() if isinstance(place, str)}

    def letters_of(path: str, kind: str, name: str, rank: int) -> str:
        key = tap_key(path, kind, name)
        for place, letters in patterns.items():
            if len(letters) == rank and fnmatch.fnmatchcase(key, place):
                return letters
        return by_rank.get(rank) or "ABDEFGHIJKL"[:rank]

    return letters_of


def _port_inputs(pair: Pair) -> Inputs:
    """The port's arguments: as given, or the reference's with their axes in the port's order."""
    if pair.port_inputs is not None:
        return pair.port_inputs
    theirs, ours = _axes(pair.axes, REFERENCE_AXES), _axes(pair.port_axes, PORT_AXES)

    def moved(name: str, array: np.ndarray) -> np.ndarray:
        before, after = (axes("", "input", name, array.ndim) for axes in (theirs, ours))
        if sorted(before) != sorted(after):
            return array
        return np.ascontiguousarray(array.transpose([before.index(axis) for axis in after]))

    return _mapped(pair.inputs, moved)


def _cast(inputs: Inputs, dtype: str) -> Inputs:
    """The inputs with their floats in `dtype`."""
    return _mapped(
        inputs, lambda name, array: array.astype(dtype) if array.dtype.kind == "f" else array
    )


def _mapped(inputs: Inputs, change: Callable[[str, np.ndarray], np.ndarray]) -> Inputs:
    template, arrays = flatten(inputs, _is_array)
    changed = {name: change(name, array) for name, array in arrays}
    return fill(template, lambda slot: changed[slot.name])


def _described(inputs: Inputs) -> list[dict[str, Any]]:
    _, arrays = flatten(inputs, _is_array)
    return [
        {
            "name": name or "input",
            "size": "x".join(map(str, array.shape)),
            "sha256": hashlib.sha256(np.ascontiguousarray(array).data).hexdigest(),
        }
        for name, array in arrays
    ]


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray)


def _pairing(names: Names) -> str:
    places = len(names.tensors) + len(names.calls) + len(names.views)
    alone = len(names.reference_only) + len(names.port_only)
    if names.modules is None:
        text = BY_IDENTITY
    else:
        text = f"modules are paired by a declared map of {len(names.modules)} patterns"
    if places:
        text += f"; {places} patterns of their tensors have another name, count or shape"
    if alone:
        text += f"; {alone} patterns of tensors are declared to be on one side only"
    return text


def _few(keys: Sequence[str]) -> str:
    return ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")
