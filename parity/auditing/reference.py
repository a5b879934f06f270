"""What an audit measures of the reference: once, for any number of ports."""

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from parity.auditing.options import Options
from parity.auditing.pair import Built, InDtype, Pair, axes_of, build, cast
from parity.calls import Recorder
from parity.errors import InputError
from parity.frameworks import registry
from parity.frameworks.framework import Framework
from parity.frameworks.shared.interceptions import Found, noting
from parity.metrics import Gap
from parity.pairing import Comparison
from parity.steps import Steps, give_back
from parity.trace import Trace
from parity.weights import Loaded, state_of


@dataclass
class Reference:
    """The reference of a pair, measured.

    `trace` and `outputs` are those in float64, `floors` how far rounding moves each tap; `moved`
    is what was kept of the outputs of the runs with moved roundings. `errors32` and `floors32` are
    the same of the float32 reference, empty where only float64 is audited. `state` are its weights.
    Inside `precision` its float64 model runs; `kept` are the casts to float32 that it would make.
    """

    pair: Pair
    framework: Framework
    state: Mapping[str, np.ndarray]
    recorder: Recorder | None
    outputs: Any
    trace: Trace
    floors: Mapping[str, Gap]
    moved: list[Any]
    outputs32: Any = None
    errors32: Mapping[str, Gap] = field(default_factory=dict)
    floors32: Mapping[str, Gap] = field(default_factory=dict)
    kept: Found = field(default_factory=dict)
    precision: Callable[[], AbstractContextManager] = nullcontext

    def release(self) -> None:
        """Lets go of model and tensors; what was measured of them stays."""
        self.recorder, self.trace = None, Trace()


def measure_reference(pair: Pair, options: Options, steps: Steps) -> Reference:
    """Everything of an audit that does not depend on the port.

    Raises InputError for a reference in training mode, one whose framework cannot measure rounding
    floors, and where `options.only` selects nothing.
    """
    pair = _given(pair)
    with steps("reference, float64"):
        with noting() as kept:
            built, recorder = _recorder(pair, options, "float64")
            framework, inputs64 = built.framework, cast(pair.inputs, "float64")
            with built.precision():
                outputs, trace = recorder(inputs64)
        if options.only is not None and not len(trace):
            raise InputError(
                f"--only {options.only!r} selects nothing",
                "no module of the reference is at or below this path",
                f"give a module path such as {next((one for one in recorder.modules if one), '')}",
            )
    with steps("rounding floor, float64"):
        moved: list[Any] = []
        keep = options.kept or (lambda run: None)
        with built.precision():
            floors = framework.measure_floors(
                recorder, inputs64, trace, observe=lambda run: moved.append(keep(run))
            )
    give_back()
    state = _state(pair)
    found = Reference(pair, framework, state, recorder, outputs, trace, floors, moved)
    found.kept, found.precision = kept, built.precision
    if options.float32:
        with steps("reference and rounding floor, float32"):
            _, recorder32 = _recorder(pair, options, "float32")
            inputs32 = cast(pair.inputs, "float32")
            comparison = Comparison(trace)
            found.outputs32, _ = recorder32(inputs32, comparison)
            found.errors32 = comparison.gaps
            found.floors32 = framework.measure_floors(
                recorder32, inputs32, trace, observe=lambda run: None
            )
    return found


def _given(pair: Pair) -> Pair:
    """The pair with a reference that is built: once, since each might have weights of its own."""
    if isinstance(pair.reference, InDtype) or registry.entry_of(pair.reference) is not None:
        return pair
    return dataclasses.replace(pair, reference=build(pair.reference, "float32").model)


def _recorder(pair: Pair, options: Options, dtype: str) -> tuple[Built, Recorder]:
    built = build(pair.reference, dtype)
    framework = built.framework
    if framework.in_training(built.model):
        raise InputError(
            "the reference is in training mode",
            "dropout and batch statistics would make every run another one",
            "call reference.eval() first",
        )
    if framework.measure_floors is None:
        raise InputError(
            f"a model of {framework.NAME} cannot be the reference",
            "how far rounding moves its tensors cannot be measured",
            "make it the port, and the other model the reference",
        )
    axes = axes_of(pair.axes, framework)
    return built, framework.recorder(
        built.model,
        axes,
        framework.EXECUTIONS[0],
        only=options.only,
        copies=pair.copies,
        naming=pair.names.reference_side(),
    )


def _state(pair: Pair) -> Mapping[str, np.ndarray]:
    """The reference's float tensors by key, as they are in float32."""
    if isinstance(pair.weights, Loaded):
        return pair.weights.state
    told = isinstance(pair.reference, InDtype)
    model = build(pair.reference, "float32").model if told else pair.reference
    return state_of(registry.of(model).variables(model))
