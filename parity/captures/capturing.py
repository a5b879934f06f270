"""One side of a pair, run where its framework is, and kept to be judged where the other one is."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from parity.auditing.options import Options
from parity.auditing.pair import (
    Built,
    Inputs,
    Pair,
    axes_of,
    build,
    cast,
    described,
    inputs_of_port,
)
from parity.auditing.port import usable
from parity.auditing.reference import measure_reference
from parity.auditing.result import Input
from parity.captures.kept import (
    PRECISIONS,
    SCHEMA,
    Capture,
    GivenBack,
    Run,
    file_of,
    written,
)
from parity.captures.stored import StoredTaps, TapWriter
from parity.captures.training import Trained, capture_step, step_floors
from parity.errors import InputError
from parity.files import replacing
from parity.frameworks import registry
from parity.frameworks.framework import Framework
from parity.provenance import provenance
from parity.steps import Steps, give_back
from parity.trace import Tap
from parity.weights import Loaded, returned, state_digest

SIDES = ("reference", "port")
DEVICES = ("cpu", "gpu", "tpu")


@dataclass(frozen=True)
class Asked:
    """What is captured beside the pair.

    Args:
        precisions: of `PRECISIONS`.
        executions: how a port is run in float32; None for every way.
        device: where float32 is run; float64 is run on the processor, as a TPU has none.
        facts: what the caller knows of both sides and must be the same on both, such as the digest
            of the configuration; texts by name.
        title: what is captured, for people.
        decided: tells the taps that are scores, whose choices must be the same in float32.
        inputs: a description of the inputs, by default made from them.
        training: makes of a side's float64 model, and its inputs, what trains it, whose step is
            captured as well.
    """

    precisions: Sequence[str] = PRECISIONS
    executions: Sequence[str] | None = None
    device: str = "cpu"
    facts: Mapping[str, Any] = field(default_factory=dict)
    title: str = "Capture"
    decided: Callable[[Tap], bool] = lambda tap: False
    inputs: Sequence[Input] | None = None
    training: Callable[[Built, Inputs], Trained] | None = None


def capture(
    pair: Pair,
    side: str,
    folder: str | Path,
    *,
    precisions: Sequence[str] = PRECISIONS,
    executions: Sequence[str] | None = None,
    device: str = "cpu",
    title: str = "Capture",
    quiet: bool = False,
) -> Path:
    """Run one side of a pair and keep every tensor in `folder`, to be judged elsewhere.

    Only the framework of that side is needed; the other side of the pair is not opened, and may be
    None. What is kept also says what tells a wrong partner: digests of weights, inputs and values.

    Args:
        side: "reference" or "port". Of the reference its rounding floors are measured as well.
        precisions: "float64", "float32", or both.
        executions: how a port is run in float32, by default in every way that its framework has.
        device: "cpu", "gpu" or "tpu", where float32 is run; float64 is run on the processor.
        title: what the result that is judged from it is called.
        quiet: print no progress.
    Returns: the folder, which is new.
    Raises: InputError where the side cannot be captured alone: names that are found from both
        models, weights that are to be moved from the reference, a device that is not there.

    Example:
        >>> import numpy, tempfile, torch
        >>> model, inputs = torch.nn.Linear(4, 2).eval(), (numpy.ones((3, 4), "float32"),)
        >>> pair = parity.Pair(model, None, inputs, names=parity.Names())
        >>> folder = f"{tempfile.mkdtemp()}/reference"
        >>> parity.capture(pair, "reference", folder, quiet=True).name
        'reference'
    """
    asked = Asked(tuple(precisions), executions, device, title=title)
    return capture_with(pair, side, Path(folder), asked, Steps(quiet=quiet))


def capture_with(pair: Pair, side: str, folder: Path, asked: Asked, steps: Steps) -> Path:
    """Captures one side as `capture` does; what is asked for may say more."""
    check_asked(side, asked, trained=asked.training is not None)
    _check_pair(pair)
    there = InputError(
        f"{folder} exists already", "a capture is never overwritten", "name a new folder"
    )
    if folder.exists():
        raise there
    folder.parent.mkdir(parents=True, exist_ok=True)
    one = _reference if side == "reference" else _port
    try:
        with replacing(folder) as place:
            place.mkdir()
            written(one(pair, place, asked, steps), place)
    except OSError:
        if folder.exists():  # which another process has filled meanwhile
            raise there from None
        raise
    return folder


def announced(pair: Pair, side: str, asked: Asked) -> Capture:
    """What a capture of one side will say of itself, as far as that is known before it runs."""
    import parity

    own = isinstance(pair.weights, Loaded)
    return Capture(
        schema=SCHEMA,
        side=side,
        title=asked.title,
        program=parity.__version__,
        weights_sha256=_weights_digest(pair.weights.state) if own else "",
        inputs=tuple(described(pair.inputs) if asked.inputs is None else asked.inputs),
        facts=dict(asked.facts),
        runs=(),
        provenance={},
    )


def check_asked(side: str, asked: Asked, *, trained: bool) -> None:
    """Raises InputError where what is asked of a side cannot be followed, whatever the pair.

    `trained` says whether a training step is captured as well.
    """
    if side not in SIDES:
        raise InputError(f"--side is {side!r}", f"expected one of {', '.join(SIDES)}")
    unknown = [one for one in asked.precisions if one not in PRECISIONS]
    if unknown or not asked.precisions:
        raise InputError(
            f"--precision has {(unknown or [''])[0]!r}",
            f"expected a comma-separated list of {', '.join(PRECISIONS)}",
        )
    if asked.device not in DEVICES:
        raise InputError(f"--device is {asked.device!r}", f"expected one of {', '.join(DEVICES)}")
    if side == "reference" and "float64" not in asked.precisions:
        raise InputError(
            "the reference is captured without float64",
            "every other precision is held to it",
            "give --precision float64,float32",
        )
    if trained and "float64" not in asked.precisions:
        raise InputError(
            "a training step is captured in float64",
            f"--precision has {', '.join(asked.precisions)} alone",
            "give --precision float64,float32, or leave --train out",
        )
    if asked.device == "cpu":
        return
    if side == "reference":
        raise InputError(
            f"a reference is not captured on a {asked.device.upper()}",
            "its rounding errors are those of the processor, to which ports are held",
            "give --device cpu",
        )
    if "float32" not in asked.precisions:
        raise InputError(
            f"nothing is captured on a {asked.device.upper()}",
            "float32 alone runs there, and --precision leaves it out",
            "give --device cpu, or --precision float64,float32",
        )


def _check_pair(pair: Pair) -> None:
    if pair.names is None or not getattr(pair.names, "complete", True):
        raise InputError(
            "names of this pair are found from both models",
            "a side that is captured alone must have them declared",
            "`parity match` prints what was found; `names=parity.Names()` where paths are the same",
        )
    if pair.weights is not None and not isinstance(pair.weights, Loaded):
        raise InputError(
            "this pair moves the reference's weights into the port",
            "a side that is captured alone must have its own",
            "build the port with its weights, and leave `weights` out",
        )


def _reference(pair: Pair, place: Path, asked: Asked, steps: Steps) -> Capture:
    """The reference's taps in float64, how far rounding moves them, and its errors in float32."""
    file = file_of("float64", "eager")
    kept: dict[str, tuple] = {}

    def stored(record: Any) -> tuple[Any, StoredTaps]:
        with TapWriter(place / file) as writer:
            outputs, _ = record(writer)
        kept["entries"] = writer.entries
        return outputs, StoredTaps(place / file, writer.entries)

    executions = ("eager",) if "float32" in asked.precisions else ()
    options = Options(executions)
    found = measure_reference(pair, options, steps, stored=stored)
    taps = found.trace
    return replace(
        announced(pair, "reference", asked),
        weights_sha256=_weights_digest(found.state),
        runs=(
            Run(
                precision="float64",
                execution="eager",
                device="cpu",
                file=file,
                taps=kept["entries"],
            ),
        ),
        floors=found.floors,
        errors32=found.errors32,
        floors32=found.floors32,
        **_step((found.built, cast(pair.inputs, "float64")), place, asked, steps, floors=True),
        stages={one.path: pair.stage(one.path) for one in taps.places().values()},
        decided=tuple(key for key in taps if asked.decided(taps[key])),
        pairing=pair.names.pairing,
        provenance=_provenance(found.built, asked),
    )


def _weights_digest(state: Mapping[str, np.ndarray]) -> str:
    """The digest of weights in whatever order a framework holds them."""
    return state_digest({key: state[key] for key in sorted(state)})


def _port(pair: Pair, place: Path, asked: Asked, steps: Steps) -> Capture:
    """The port's taps in every precision and execution that is asked for."""
    runs, back, last, step = [], GivenBack(), None, {}
    for precision in asked.precisions:
        with steps(f"build the port, {precision}"):
            built = last = build(pair.port, precision)
        _check_port(built.framework, asked)
        if isinstance(pair.weights, Loaded):
            found = returned(pair.weights.state, pair.weights.read(built.model))
            back = GivenBack(count=found.count, changed=found.changed, sha256=found.sha256)
        if precision == "float64":
            inputs = cast(_inputs(pair, built.framework), precision)
            step = _step((built, inputs), place, asked, steps, floors=False)
        device = asked.device if precision != "float64" else "cpu"
        for execution in _executions(built, precision, asked):
            with steps(f"port, {precision}, {execution}, on {device}"):
                runs.append(_run(pair, built, place, (precision, execution, device)))
            give_back()
    return replace(
        announced(pair, "port", asked),
        runs=tuple(runs),
        returned=back,
        **step,
        provenance=_provenance(last, asked),
    )


def _step(
    trained_on: tuple[Built, Inputs], place: Path, asked: Asked, steps: Steps, *, floors: bool
) -> dict[str, Any]:
    """The training step of a float64 model, where it is asked for; of a reference, its floors."""
    if asked.training is None:
        return {}
    trained, file = asked.training(*trained_on), file_of("float64", "training")
    with steps("training step, float64"):
        run = capture_step(trained, place, file)
    if not floors:
        return {"step": run}
    with steps("rounding floor of the training step"):
        return {"step": run, "step_floors": step_floors(trained, run.stored(place))}


def _check_port(framework: Framework, asked: Asked) -> None:
    """Raises InputError, before anything runs, for an execution or a device that is not there."""
    known = (*framework.EXECUTIONS, *getattr(framework, "ASKED_FOR", ()))
    unknown = [one for one in asked.executions or () if one not in known]
    if unknown:
        raise InputError(
            f"{framework.NAME} has no `{unknown[0]}` execution", f"there are {', '.join(known)}"
        )
    with _on(framework, asked.device):
        pass


def _executions(built: Built, precision: str, asked: Asked) -> Sequence[str]:
    framework = built.framework
    if precision == "float64":
        return framework.EXECUTIONS[:1]
    return framework.EXECUTIONS if asked.executions is None else asked.executions


def _run(pair: Pair, built: Built, place: Path, how: tuple[str, str, str]) -> Run:
    precision, execution, device = how
    framework, axes = built.framework, axes_of(pair.port_axes, built.framework)
    recorder = framework.recorder(
        built.model, axes, execution, only=None, copies=True, naming=pair.names.port_side({})
    )
    inputs = cast(_inputs(pair, framework), precision)
    file = file_of(precision, execution)
    with ExitStack() as stack:
        writer = stack.enter_context(TapWriter(place / file))
        stack.enter_context(usable(built, execution))
        stack.enter_context(_on(framework, device))
        recorder.modules_of(inputs)
        recorder(inputs, writer)
    return Run(
        precision=precision, execution=execution, device=device, file=file, taps=writer.entries
    )


def _inputs(pair: Pair, ours: Framework) -> Inputs:
    """The port's inputs, of which axes may follow from what framework the reference is of."""
    known = registry.entry_of(pair.reference) is not None
    if pair.port_inputs is None and not known:
        raise InputError(
            "the port's inputs are not known",
            "their axes follow from the reference's framework, which is not there",
            "give `port_inputs`, as the port takes them",
        )
    theirs = registry.of(pair.reference) if known else ours
    return inputs_of_port(pair, theirs, ours)


def _on(framework: Framework, device: str) -> AbstractContextManager:
    """Inside it models run on the device."""
    if device == "cpu":
        return nullcontext()
    on = getattr(framework, "on_device", None)
    if on is None:
        raise InputError(
            f"models of {framework.NAME} are not captured on a {device.upper()}",
            "no way is known here to put them there",
            "give --device cpu",
        )
    return on(device)


def _provenance(built: Built, asked: Asked) -> dict[str, Any]:
    called = f"{type(built.model).__name__} ({built.framework.NAME})"
    return provenance(model=called, device=asked.device)
