"""The port of a pair, in the precisions of an audit, with the reference's weights."""

import os
import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from parity.auditing.arranging import Arranged, known
from parity.auditing.declared import check_kinds
from parity.auditing.options import Options
from parity.auditing.pair import Built, Inputs, Pair, axes_of, build, cast, inputs_of_port
from parity.auditing.reference import Reference, state_of_reference
from parity.calls import Recorder
from parity.errors import InputError
from parity.frameworks import registry
from parity.frameworks.shared.interceptions import Found, noting
from parity.judge import BFLOAT16, MIXED
from parity.names import Naming
from parity.steps import Steps
from parity.trace import Axes, Trace
from parity.weights import Held, Loaded, Returned, Weights, load, returned
from parity.weights.standing import by_pattern, condensed, kinds_of

ENGINE = f"{Path(__file__).parents[1]}{os.sep}"
KERAS_FRAME = re.compile(r"Exception encountered when calling [^\n]*\n")
FRAMES = 6  # lines of a traceback that are shown


@dataclass
class Port:
    """The port in float64 and, where float32 is audited, in float32.

    `bfloat16` is the one in that, where it is audited.
    `returned` is what came back of the weights that it was given, None where it was built with
    them; `held` are the float64 variables that hold them, `held32` those of the float32 model;
    `reasons` say what of them cannot be read back, `lacking` what was not loaded, by its name.
    """

    float64: Built | None
    float32: Built | None = None
    bfloat16: Built | None = None
    returned: Returned | None = None
    held: Sequence[Held] = ()
    held32: Sequence[Held] = ()
    kept: Found = field(default_factory=dict)
    reasons: Sequence[str] = ()
    lacking: Mapping[str, str] = field(default_factory=dict)

    @property
    def model64(self) -> Any:
        """The float64 model."""
        return self.float64 and self.float64.model

    @property
    def model32(self) -> Any:
        """The float32 model, None where there is none."""
        return self.float32 and self.float32.model

    def release64(self) -> None:
        """Lets go of the float64 model."""
        self.float64, self.held = None, ()

    def read_back(self, reference: Reference) -> Mapping[str, np.ndarray]:
        """The float64 model's weights by the reference's keys, in its layout."""
        if isinstance(reference.pair.weights, Loaded):
            return reference.pair.weights.read(self.model64)
        return {
            key: array for one in self.held for key, array in one.returned(reference.state).items()
        }

    def conversion(self, reference: Reference) -> Returned:
        """What came back of the weights, from the float32 model where there is one."""
        weights = reference.pair.weights
        if self.returned is None and isinstance(weights, Loaded):
            return returned(weights.state, weights.read((self.float32 or self.float64).model))
        return self.returned or Returned()


def given(model: Any, dtype: str) -> Built:
    """A model that is built already, to be judged as it is."""
    return Built(registry.of(model), model, dtype)


def build_port(reference: Reference, options: Options, steps: Steps) -> Port:
    """The port with its weights, in the precisions that the audit asks for.

    Raises InputError for weights that do not match, an execution that its framework has not, and a
    port that cannot be built or run in float64.
    """
    with steps("build the port"):
        with noting() as kept:
            built, held, lacking = _loaded(reference, "float64")
        known = (*built.framework.EXECUTIONS, *getattr(built.framework, "ASKED_FOR", ()))
        if MIXED in getattr(built.framework, "PRECISIONS", ()):
            known += (BFLOAT16,)
        unknown = [name for name in options.executions or () if name not in known]
        if unknown:
            raise InputError(
                f"{built.framework.NAME} has no `{unknown[0]}` execution",
                f"there are {', '.join(known)}",
            )
        port = Port(built, held=held, kept=kept, lacking=lacking)
        if isinstance(reference.pair.weights, Weights):
            keys = {key for one in held for key in one.keys}
            given_to = {key: one for key, one in reference.state.items() if key in keys}
            port.reasons = tuple(text for one in held for text in one.reasons)
            port.returned = returned(given_to, port.read_back(reference))
        _changed(reference, built)
        if options.float32:
            port.float32, port.held32, _ = _loaded(reference, "float32")
            _changed(reference, port.float32)
        if options.bfloat16:
            port.bfloat16, _, _ = _loaded(reference, MIXED)
            _changed(reference, port.bfloat16)
        return port


def recorder_of(
    reference: Reference, built: Built, execution: str, only: str | None
) -> tuple[Recorder, Inputs]:
    """The recorder of the port in one execution, and the inputs in its precision."""
    pair = reference.pair
    axes = axes_of(pair.port_axes, built.framework)
    naming = naming_of(reference, axes)
    recorder = built.framework.recorder(
        built.model, axes, execution, only=only, copies=True, naming=naming
    )
    inputs = inputs_of_port(pair, reference.framework, built.framework)
    return recorder, cast(inputs, built.dtype)


def naming_of(reference: Reference, axes: Axes) -> Naming | None:
    """How recorders of the port, whose axes are given, name what they see; None for by itself."""
    pair = reference.pair
    naming = pair.names.port_side(places_of(reference.trace))
    if naming is None:
        return None
    their_axes = axes_of(pair.axes, reference.framework)
    return Arranged(naming, known(reference.trace), axes, their_axes)


@contextmanager
def usable(built: Built, execution: str) -> Iterator[None]:
    """Inside it the model runs in its precision; an error of the model becomes an InputError.

    Those of a model that was told its precision stay as they are.
    """
    if built.told:
        yield
        return
    with own_errors(f"{built.dtype}, {execution}"), built.precision():
        yield


PRECISIONS = re.compile(r"float|double|half|dtype", re.IGNORECASE)


@contextmanager
def own_errors(how: str) -> Iterator[None]:
    """Inside it, what the user's model raises becomes an InputError that shows where."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # whatever the user's model raises
        said = KERAS_FRAME.sub("", str(error)).partition("Call arguments received by")[0].strip()
        text = f"{type(error).__name__}: {said.partition(chr(10))[0]}"
        if PRECISIONS.search(said):
            raise InputError(
                f"the port cannot run in {how}",
                text,
                "let its layers take their precision from Keras; see docs/port_your_model.md, "
                '"A model that fixes its precision"',
            ) from error
        raise InputError(
            f"the port cannot run in {how}: its own code raises {type(error).__name__}",
            *_users_frames(error),
            text,
            "mend it; outside of the comparison it fails in the same way",
        ) from error


def _users_frames(error: BaseException) -> list[str]:
    """Where the user's code was when it raised, the innermost line last."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [one for one in frames if not one.filename.startswith(ENGINE) and one.name != "wrapper"]
    users = [one for one in own if "-packages" not in one.filename] or own
    return [f"{one.filename}:{one.lineno}, {one.name}: {one.line or ''}" for one in users[-FRAMES:]]


def weights_told(pair: Pair, first: Built | None) -> list[str]:
    """What of its declared weights the port does not hold as the reference does, by pattern.

    One port in float32 is built for it, and nothing is run but what building takes.

    Raises InputError that lists all weights that do not match, unless the pair goes on without
    (`undeclared`).
    """
    with own_errors("float32, eager"):
        built = build(pair.port, "float32")
        theirs = first.framework if first else registry.of(pair.reference)
        recorder = built.framework.recorder(
            built.model,
            axes_of(pair.port_axes, built.framework),
            built.framework.EXECUTIONS[0],
            only=None,
            copies=True,
            naming=pair.names.port_side({}),
        )
        with built.precision():
            recorder.modules_of(cast(inputs_of_port(pair, theirs, built.framework), "float32"))
    state = state_of_reference(pair, first)
    if isinstance(pair.weights, Loaded):
        return by_pattern(kinds_of(state, pair.weights.read(built.model)))
    _, lacking = _given(pair, state, built)
    return condensed(lacking.values())


def _loaded(reference: Reference, dtype: str) -> tuple[Built, Sequence[Held], Mapping[str, str]]:
    """The port in one precision, what of it holds the reference's weights, and what lacks."""
    pair = reference.pair
    with own_errors(f"{dtype}, eager"):
        built = build(pair.port, dtype)
        if not isinstance(pair.weights, Weights):
            return built, (), {}
        recorder, inputs = recorder_of(reference, built, built.framework.EXECUTIONS[0], None)
        with built.precision():
            recorder.modules_of(inputs)
    return built, *_given(pair, reference.state, built)


def _given(
    pair: Pair, state: Mapping[str, np.ndarray], built: Built
) -> tuple[Sequence[Held], Mapping[str, str]]:
    """Gives a port the reference's weights; see `load`."""
    framework, model = built.framework, built.model
    if not pair.undeclared:
        variables, modules = framework.variables(model), framework.modules(model)
        check_kinds(pair.names, pair.weights, state, variables, modules)
    return load(framework, model, state, pair.names, pair.weights, undeclared=pair.undeclared)


def _changed(reference: Reference, built: Built) -> None:
    if reference.pair.after_loading is not None:
        reference.pair.after_loading(built.model)


def places_of(trace: Trace) -> dict[tuple[str, str], list[str]]:
    """The names of the reference's tensors by the path and kind of their taps."""
    places: dict[tuple[str, str], list[str]] = {}
    for tap in trace.values():
        names = places.setdefault((tap.path, tap.kind), [])
        if tap.name not in names:
            names.append(tap.name)
    return places
