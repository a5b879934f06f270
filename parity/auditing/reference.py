"""What an audit measures of the reference: once, for any number of ports."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from parity.auditing.declared import check_sides
from parity.auditing.options import Options
from parity.auditing.pair import Built, InDtype, Pair, axes_of, build, cast
from parity.calls import Recorder
from parity.errors import InputError
from parity.frameworks import registry
from parity.frameworks.framework import Framework
from parity.frameworks.shared.interceptions import Found, noting
from parity.judge import MIXED, MORE
from parity.metrics import Gap, widened
from parity.pairing import Comparison
from parity.steps import Steps, give_back
from parity.trace import Trace
from parity.weights import Loaded, state_of


@dataclass
class Reference:
    """The reference of a pair, measured.

    `built` is its float64 model, `trace` and `outputs` are those in float64, `floors` how far
    rounding moves each tap; `moved` is what was kept of the outputs of the runs with moved
    roundings. `errors32` and `floors32` are the same of the float32 reference, `errors16` and
    `floors16` of the one in bfloat16, empty where these are not audited. `state` are its weights;
    `first` is the float32 model that has them, where each build might have others. `kept` are the
    casts to float32 that its float64 run would make.
    """

    pair: Pair
    built: Built
    state: Mapping[str, np.ndarray]
    recorder: Recorder | None
    outputs: Any
    trace: Trace
    floors: Mapping[str, Gap]
    moved: list[Any]
    outputs32: Any = None
    errors32: Mapping[str, Gap] = field(default_factory=dict)
    floors32: Mapping[str, Gap] = field(default_factory=dict)
    errors16: Mapping[str, Gap] = field(default_factory=dict)
    floors16: Mapping[str, Gap] = field(default_factory=dict)
    first: Built | None = None
    kept: Found = field(default_factory=dict)
    _more32: Mapping[str, Gap] = field(default_factory=dict)

    def more_floors32(self, options: Options) -> Mapping[str, Gap]:
        """The float32 floors with `MORE` further runs whose roundings are moved."""
        if not self._more32:
            built, recorder = _recorder(self.pair, options, "float32", self.first)
            with built.precision():
                more = built.framework.measure_floors(
                    recorder,
                    cast(self.pair.inputs, "float32"),
                    self.trace,
                    seeds=range(1, 1 + MORE),
                    reorder=False,
                    observe=lambda run: None,
                )
            self._more32 = widened(self.floors32, more)
        return self._more32

    def built_in(self, dtype: str) -> Built:
        """Its model in one precision, which may be one that serves for this alone."""
        return _built(self.pair, dtype, self.first)

    def recorder_in(self, dtype: str) -> Recorder:
        """A recorder of its model in one precision, which has recorded nothing yet."""
        return _new_recorder(self.pair, self.built_in(dtype), None)

    @property
    def framework(self) -> Framework:
        """The framework of its model."""
        return self.built.framework

    def release(self) -> None:
        """Lets go of model and tensors; what was measured of them stays."""
        self.release64()
        self.trace = Trace()

    def release64(self) -> None:
        """Lets go of the float64 model."""
        self.recorder = None
        self.built = dataclasses.replace(self.built, model=None)


def measure_reference(
    pair: Pair,
    options: Options,
    steps: Steps,
    first: Built | None = None,
    *,
    stored: Callable[[Callable], tuple[Any, Any]] = lambda record: record(),
) -> Reference:
    """Everything of an audit that does not depend on the port.

    `first` is what `given_reference` has built already; `stored` makes the float64 run, a function
    of a sink for its taps, and returns its outputs and the taps: by default they are in memory.

    Raises InputError for a reference in training mode, one whose framework cannot measure rounding
    floors, and where `options.only` selects nothing.
    """
    check_sides(pair.names)
    if first is None:
        pair, first = given_reference(pair)
    with steps("reference, float64"):
        with noting() as kept:
            built, recorder = _recorder(pair, options, "float64", first)
            inputs64 = cast(pair.inputs, "float64")
            with built.precision():
                outputs, trace = stored(partial(recorder, inputs64))
        if options.only is not None and not len(trace):
            raise InputError(
                f"--only {options.only!r} selects nothing",
                "no module of the reference is at or below this path",
                f"give a module path such as {next((one for one in recorder.modules if one), '')}",
            )
    with steps("rounding floor, float64"), built.precision():
        moved: list[Any] = []
        keep = options.kept or (lambda run: None)
        floors = built.framework.measure_floors(
            recorder, inputs64, trace, observe=lambda run: moved.append(keep(run))
        )
    give_back()
    state = state_of_reference(pair, first)
    found = Reference(pair, built, state, recorder, outputs, trace, floors, moved, first=first)
    found.kept = kept
    if options.float32:
        with steps("reference and rounding floor, float32"):
            found.outputs32, found.errors32, found.floors32 = _less_exact(found, options, "float32")
    if options.bfloat16:
        with steps("reference and rounding floor, bfloat16"):
            _, found.errors16, found.floors16 = _less_exact(found, options, MIXED)
    return found


def _less_exact(
    reference: Reference, options: Options, dtype: str
) -> tuple[Any, Mapping[str, Gap], Mapping[str, Gap]]:
    """Outputs, errors and rounding floors of the reference in another precision."""
    pair, trace = reference.pair, reference.trace
    framework = reference.framework
    if dtype == MIXED and MIXED not in getattr(framework, "PRECISIONS", ()):
        raise InputError(
            f"a reference of {framework.NAME} is not audited in bfloat16",
            "its own error there, to which the port is held, cannot be measured",
            "leave `bfloat16` out of the executions",
        )
    built, recorder = _recorder(pair, options, dtype, reference.first)
    inputs, comparison = cast(pair.inputs, dtype), Comparison(trace)
    with built.precision():
        outputs, _ = recorder(inputs, comparison)
        floors = framework.measure_floors(recorder, inputs, trace, observe=lambda run: None)
    return outputs, comparison.gaps, floors


def given_reference(pair: Pair) -> tuple[Pair, Built | None]:
    """The pair with a reference that is built: once, since each might have weights of its own.

    One that cannot be copied stays a function; its first model, in float32, has the weights.
    """
    if isinstance(pair.reference, InDtype) or registry.entry_of(pair.reference) is not None:
        return pair, None
    first = build(pair.reference, "float32")
    if first.framework.copied is not None:
        return dataclasses.replace(pair, reference=first.model), None
    _built_by_a_call(pair, first)
    return pair, first


def evaluating(reference: Built) -> None:
    """Raises InputError where the reference is in training mode."""
    if reference.framework.in_training(reference.model):
        raise InputError(
            "the reference is in training mode",
            "dropout and batch statistics would make every run another one",
            "call reference.eval() first",
        )


def _built_by_a_call(pair: Pair, built: Built) -> None:
    recorder = _new_recorder(pair, built, None)
    with built.precision():
        recorder.modules_of(cast(pair.inputs, built.dtype))


def _recorder(
    pair: Pair, options: Options, dtype: str, first: Built | None
) -> tuple[Built, Recorder]:
    built = _built(pair, dtype, first)
    evaluating(built)
    framework = built.framework
    if framework.measure_floors is None:
        raise InputError(
            f"a model of {framework.NAME} cannot be the reference",
            "how far rounding moves its tensors cannot be measured",
            "make it the port, and the other model the reference",
        )
    return built, _new_recorder(pair, built, options.only)


def _built(pair: Pair, dtype: str, first: Built | None) -> Built:
    """The reference in one precision, with the weights of the first model where there is one."""
    if first is not None and dtype == first.dtype:
        return first
    built = build(pair.reference, dtype)
    if first is not None:
        _built_by_a_call(pair, built)
        weights = first.framework.variables(first.model)
        for path, one in built.framework.variables(built.model).items():
            one.assign(weights[path].read())
    return built


def _new_recorder(pair: Pair, built: Built, only: str | None) -> Recorder:
    framework = built.framework
    return framework.recorder(
        built.model,
        axes_of(pair.axes, framework),
        framework.EXECUTIONS[0],
        only=only,
        copies=pair.copies,
        naming=None if pair.names is None else pair.names.reference_side(),
    )


def state_of_reference(pair: Pair, first: Built | None) -> Mapping[str, np.ndarray]:
    """The reference's float tensors by key, as they are in float32."""
    if isinstance(pair.weights, Loaded):
        return pair.weights.state
    if first is not None:
        return state_of(first.framework.variables(first.model))
    told = isinstance(pair.reference, InDtype)
    model = build(pair.reference, "float32").model if told else pair.reference
    return state_of(registry.of(model).variables(model))
