"""One audit: the reference measured once, a port judged against it as often as wanted."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parity.errors import InputError
from replication.console.progress import Steps
from replication.process.memory import give_back

if TYPE_CHECKING:
    import numpy as np

    from maskformer.model.config import ModelConfig
    from maskformer.model.solver import SolverConfig
    from parity.audit_result import Measured
    from parity.judge import Verdict
    from parity.metrics import Gap
    from parity.trace import Trace
    from replication.sides.weights import Weights

EXECUTIONS = ("eager", "graph", "xla")
LOSS_SEED = 0  # of the case on which a reference with other auxiliary outputs is compared in loss
TRAINING = "losses, matching, gradients and weight updates"
NOT_VERIFIED = (
    TRAINING,
    "data pipelines, and predictions for other images",
    "training runs and the PQ or mIoU they reach",
    "execution on a TPU",
)
ONE_IMAGE = "a training step of several images, as `--batch 2` has them"
PADDED = "images that are padded in a batch, as `--size 64x96,48x80` has them"


@dataclass(frozen=True)
class Request:
    """What to audit; without `executions` the float64 claim only.

    `images` are files, resized to `short_side` pixels where given; without any, `batch` synthetic
    images of each `size` ("HxW", several by commas) are drawn and padded to the largest. `only`
    keeps the taps at and below one module path. `isolate` runs every module on the reference's
    inputs even where nothing differs. `capture_effect` measures what reading the taps changes.
    With `train`, one training step by this solver is compared as well. The port has the reference's
    `weights`, or those of a file of its own, `port_weights`.
    """

    config: "ModelConfig"
    weights: str
    images: tuple[Path, ...] = ()
    size: str = "128x160"
    batch: int = 1
    short_side: int | None = None
    executions: tuple[str, ...] = EXECUTIONS
    reference: str = "builtin"
    only: str | None = None
    isolate: bool = False
    capture_effect: bool = False
    train: "SolverConfig | None" = None
    port_weights: str | None = None
    command: str = "parity audit"


def load_images(request: Request) -> tuple["np.ndarray", "np.ndarray", list[dict[str, Any]]]:
    """The batch uint8 [N,H,W,3], its sizes int32 [N,2], and each image's name, size and sha256."""
    from maskformer.data.images import (
        batch_images,
        parse_size,
        read_image,
        resize_short_side,
        synthetic_image,
    )

    if request.images:
        images = [read_image(path) for path in request.images]
        if request.short_side is not None:
            images = [resize_short_side(image, request.short_side) for image in images]
        names = [path.name for path in request.images]
    else:
        if request.batch < 1:
            raise InputError(f"--batch is {request.batch}", "expected at least 1 image")
        shapes = [parse_size(one) for one in request.size.split(",")] * request.batch
        # Checked before drawing, which a size of zero would break.
        if min(map(min, shapes)) < request.config.minimum_size:
            raise InputError(
                f"--size {request.size} is too small",
                f"{request.config.name} needs at least {request.config.minimum_size} pixels in "
                "both directions, the stride of its coarsest features",
                "give a larger size, such as 64x96",
            )
        images = [synthetic_image(*shape, index) for index, shape in enumerate(shapes)]
        names = [f"synthetic {index}" for index in range(len(images))]
    batch, sizes = batch_images(images, request.config)
    described = [
        {
            "name": name,
            "size": f"{image.shape[0]}x{image.shape[1]}",
            "sha256": hashlib.sha256(image.tobytes()).hexdigest(),
        }
        for name, image in zip(names, images, strict=True)
    ]
    return batch, sizes, described


@dataclass
class ReferenceSide:
    """What an audit measures of the reference: it can be compared with any number of ports.

    `outputs` and `trace` are those in float64, `floors` how far rounding moves each tap, and
    `output_floors` the outputs, those of the last layer alone, with their roundings moved;
    `errors32` and `floors32` the same of the float32 reference, empty where only float64 is
    audited.
    """

    request: Request
    batch: "np.ndarray"
    sizes: "np.ndarray"
    described: list[dict[str, Any]]
    weights: "Weights"
    recorder: Any
    outputs: Any
    trace: "Trace"
    floors: "Mapping[str, Gap]"
    output_floors: list[Any]
    outputs32: Any = None
    errors32: "Mapping[str, Gap]" = field(default_factory=dict)
    floors32: "Mapping[str, Gap]" = field(default_factory=dict)

    @property
    def inputs64(self) -> dict[str, Any]:
        """The reference's arguments in float64."""
        from replication.sides.torch_side import reference_inputs

        return reference_inputs(self.batch, self.sizes, "float64")


@dataclass
class PortSide:
    """The TensorFlow model in float64 and, where float32 is audited, in float32.

    `weights` are its own where it has not the reference's.
    """

    model64: Any
    model32: Any = None
    weights: "Weights | None" = None


def audit(request: Request, steps: Steps) -> dict[str, Any]:
    """The result object of one audit; see `parity.audit_result` for its contents.

    Raises InputError for images or weights that cannot be used.
    """
    reference = measure_reference(request, steps)
    return judge_port(reference, build_port(reference, steps), steps, once=True)


def measure_reference(request: Request, steps: Steps) -> ReferenceSide:
    """Everything of an audit that does not depend on the port."""
    batch, sizes, described = load_images(request)

    from parity.frameworks.torch import capture as capture_torch
    from parity.pairing import Comparison
    from replication.sides.torch_side import REFERENCE_AXES, build_reference, reference_inputs
    from replication.sides.weights import load_weights

    config = request.config
    if request.reference == "hf":
        if request.isolate:
            raise InputError(
                "--isolate needs a reference whose modules are the port's",
                "transformers arranges its modules in another way",
                "leave it out, or give --reference builtin",
            )
        from replication.forward import hugging_face as witness

    def recorder_of(dtype: str) -> capture_torch.Recorder:
        if request.reference == "hf":
            return witness.Recorder(config, weights, dtype, request.only)
        model = build_reference(config, weights, dtype, request.reference)
        copies = request.reference != "builtin"  # the original works in place
        return capture_torch.Recorder(model, REFERENCE_AXES, only=request.only, clone=copies)

    with steps("load the weights"):
        weights = load_weights(request.weights, config)
    with steps("reference, float64"):
        recorder = recorder_of("float64")
        inputs64 = reference_inputs(batch, sizes, "float64")
        outputs, trace = recorder(inputs64)
        if not len(trace):
            raise InputError(
                f"--only {request.only!r} selects nothing",
                "no module of the reference is at or below this path",
                "give a module path such as sem_seg_head.pixel_decoder",
            )
    with steps("rounding floor, float64"):
        moved: list[Any] = []
        floors = capture_torch.measure_floors(
            recorder, inputs64, trace, observe=lambda run: moved.append(_last_layer(run))
        )
    give_back()
    found = ReferenceSide(
        request, batch, sizes, described, weights, recorder, outputs, trace, floors, moved
    )
    if request.executions:
        with steps("reference and rounding floor, float32"):
            recorder32 = recorder_of("float32")
            inputs32 = reference_inputs(batch, sizes, "float32")
            comparison = Comparison(trace)
            found.outputs32, _ = recorder32(inputs32, comparison)
            found.errors32 = comparison.gaps
            found.floors32 = capture_torch.measure_floors(recorder32, inputs32, trace)
    return found


def _last_layer(outputs: Any) -> dict[str, Any]:
    """A model's outputs without those of its earlier layers, which nothing is predicted from."""
    return {name: value for name, value in outputs.items() if name != "aux_outputs"}


def build_port(reference: ReferenceSide, steps: Steps) -> PortSide:
    """The port with its weights, in the precisions that the audit asks for."""
    from replication.sides.tf_side import build_port
    from replication.sides.weights import load_weights

    request, own = reference.request, None
    if request.port_weights is not None:
        with steps("load the port's weights"):
            own = load_weights(request.port_weights, request.config)
    with steps("build the port"):
        return PortSide(
            *(
                build_port(request.config, own or reference.weights, dtype)
                for dtype in ("float64", *(["float32"] if request.executions else []))
            ),
            weights=own,
        )


def judge_port(
    reference: ReferenceSide,
    port: PortSide,
    steps: Steps,
    *,
    predictions: bool = True,
    once: bool = False,
) -> dict[str, Any]:
    """The audit's result for one port; its models are run as they are found.

    Without `predictions`, the claims on post-processing and metrics are left out. With `once`, both
    sides lose their models and tensors as soon as nothing needs them, and serve for no other audit.
    """
    from maskformer.model.tensor_axes import stage_of
    from parity.audit_result import BY_IDENTITY, Measured, build_result, isolated_claim
    from parity.provenance import provenance
    from parity.trace import Trace

    request, config, weights = reference.request, reference.request.config, reference.weights
    batch, sizes = reference.batch, reference.sizes
    by_table = request.reference == "hf"
    if by_table:
        from replication.forward import hugging_face as witness

    measured = Measured(
        reference.trace.places(),
        reference.floors,
        reference32=reference.errors32,
        floors32=reference.floors32,
    )
    port_outputs, localisations, alone, evidence = _judge_float64(reference, port, measured, steps)
    if once:
        reference.recorder = port.model64 = None
        give_back()
    port_outputs32 = _judge_float32(reference, port, measured, steps)
    if once:
        reference.trace, port.model32 = Trace(), None
        give_back()
    claims = []
    if request.isolate and alone:
        claims.append(isolated_claim(alone, localisations, request.command))
    if request.only is None and predictions:
        from replication.forward import inference as audit_inference

        with steps("inference and metrics"):
            claims += audit_inference.inference_claims(
                config,
                audit_inference.Inputs(batch.shape[1:3], [tuple(map(int, size)) for size in sizes]),
                reference.outputs,
                reference.output_floors,
                port_outputs,
                {name: (reference.outputs32, one) for name, one in port_outputs32.items()},
                request.command,
            )
    not_verified = NOT_VERIFIED
    if (sizes == batch.shape[1:3]).all():
        not_verified = (*not_verified, PADDED)
    if request.train is not None:
        from replication.training.step import training_claims

        claims = [
            *claims,
            *training_claims(
                config,
                request.train,
                weights,
                batch,
                sizes,
                request.command,
                steps,
                isolate=request.isolate,
                port_weights=port.weights,
            ),
        ]
        not_verified = tuple(text for text in not_verified if text != TRAINING)
        if len(batch) == 1:
            not_verified = (*not_verified, ONE_IMAGE)
    result = build_result(
        measured,
        localisations,
        further_claims=claims,
        command=request.command,
        inputs=reference.described,
        timings=steps.timings,
        provenance=provenance(
            config=config.name,
            config_sha256=config.digest,
            weights=weights.source,
            weights_sha256=weights.sha256,
            reference=request.reference,
            **({} if request.only is None else {"only": request.only}),
            **(
                {}
                if port.weights is None
                else {
                    "port_weights": port.weights.source,
                    "port_weights_sha256": port.weights.sha256,
                }
            ),
        ),
        stage=stage_of,
        not_verified=(*not_verified, witness.NOT_VERIFIED) if by_table else not_verified,
        pairing=witness.DERIVATION if by_table else BY_IDENTITY,
    )
    return result if evidence is None else {**result, "witness": evidence}


def _judge_float64(
    reference: ReferenceSide, port: PortSide, measured: "Measured", steps: Steps
) -> tuple[Any, list[Any], dict[str, "Verdict"], dict[str, Any] | None]:
    """Measures the float64 port, and finds the places at fault.

    Returns its outputs, the places, the verdicts on modules that were run alone, by key, and the
    evidence of the library that the reference is, None where it is none.
    """
    from parity.causes.explain import explain
    from parity.frameworks.tensorflow import capture as capture_tf
    from parity.localise import localise
    from parity.pairing import Comparison
    from replication.sides.tf_side import PORT_AXES, port_inputs

    request, trace = reference.request, reference.trace
    with steps("port, float64"):
        recorder = capture_tf.Recorder(port.model64, PORT_AXES, "eager", only=request.only)
        inputs = port_inputs(reference.batch, reference.sizes, "float64")
        comparison = Comparison(trace)
        outputs, _ = recorder(inputs, _compared(request, comparison))
        measured.function = comparison.gaps
        measured.unpaired, measured.missing = comparison.unpaired, comparison.missing()
    _measure_conversion(measured, reference.weights, port.model32 or port.model64)
    if port.weights is not None:
        measured.port_source = port.weights.source
    if request.only is not None:
        return outputs, [], {}, None
    if request.reference == "hf":
        with steps("explain the outputs"):
            return outputs, *_witnessed(reference, outputs, measured)
    if not (measured.differs or request.isolate):
        return outputs, [], {}, None
    alone: dict[str, Verdict] = {}
    with steps("localise"):
        localisations = localise(
            reference.recorder,
            recorder,
            trace,
            inputs,
            measured.floors,
            partial(explain, weights=_loaded_otherwise(port.model64, measured)),
            everywhere=request.isolate,
            observe=lambda verdicts: alone.update({one.key: one for one in verdicts}),
        )
    return outputs, localisations, alone, None


def _witnessed(
    reference: ReferenceSide, outputs: Any, measured: "Measured"
) -> tuple[list[Any], dict[str, "Verdict"], dict[str, Any]]:
    """The places, no verdicts, and the evidence where the reference is another library's model."""
    from replication.forward import hugging_face_evidence as witness_evidence

    config = reference.request.config
    localisations, sources = witness_evidence.explain(
        config, reference.weights, reference.trace, outputs, measured.function, measured.floors
    )
    evidence = {
        "sources_of_outputs": sources,
        "loss": witness_evidence.effect_on_loss(config, reference.outputs, outputs, LOSS_SEED),
        "training": witness_evidence.training_differences(
            reference.recorder.model, reference.inputs64
        ),
    }
    return localisations, {}, evidence


def _judge_float32(
    reference: ReferenceSide, port: PortSide, measured: "Measured", steps: Steps
) -> dict[str, Any]:
    """Measures every float32 execution of the port; returns its outputs by execution."""
    from parity.audit_result import Precision
    from parity.frameworks.tensorflow import capture as capture_tf
    from parity.judge import same_decisions
    from parity.pairing import Comparison
    from replication.sides.tf_side import PORT_AXES, port_inputs

    request, trace = reference.request, reference.trace
    inputs, outputs = port_inputs(reference.batch, reference.sizes, "float32"), {}
    for execution in request.executions:
        with steps(f"port, float32, {execution}"):
            recorder = capture_tf.Recorder(port.model32, PORT_AXES, execution, only=request.only)
            comparison = Comparison(trace, ulps=lambda key: True)
            decided = _Decisions(comparison, trace)
            outputs[execution], _ = recorder(inputs, _compared(request, decided))
            decisions = [
                same_decisions(key, array, trace[key].array, _score_error(key, measured))
                for key, array in decided.logits.items()
            ]
            measured.executions[execution] = Precision(comparison.gaps, decisions)
            if request.capture_effect:
                measured.effects[execution] = _capture_effects(
                    recorder, inputs, outputs[execution], execution
                )
            del recorder, comparison, decided
        give_back()  # a program and its compiled form, before the next one is made
    return outputs


def _compared(request: Request, sink: Any) -> Any:
    """The sink for the port's taps: of all, or of those that another library's model has too."""
    if request.reference != "hf":
        return sink
    from replication.forward import hugging_face as witness

    return witness.declared_only(request.config, sink)


def _measure_conversion(measured: Any, weights: Any, model: Any) -> None:
    """What came back from the port's variables, compared with what was given."""
    from replication.sides.weights import state_digest

    returned = _returned(weights, model)
    measured.tensors_converted = len(returned)
    measured.returned_sha256 = state_digest(returned)
    measured.tensors_changed = [
        key
        for key, array in weights.state.items()
        if returned[key].tobytes() != array.tobytes() or returned[key].shape != array.shape
    ]


def _loaded_otherwise(model: Any, measured: Any) -> dict[str, "np.ndarray"]:
    """The weights of the float64 port that are not the reference's, in the reference's layout."""
    from weight_conversion.layouts import tf_to_torch

    if not measured.tensors_changed:
        return {}
    returned = tf_to_torch(model)
    return {key: returned[key] for key in measured.tensors_changed}


def _returned(weights: Any, model: Any) -> dict[str, "np.ndarray"]:
    """The weights that come back from the port's variables, in the dtypes they were given in.

    From float64, which holds every float32 number, that way back is exact.
    """
    from weight_conversion.layouts import tf_to_torch

    returned = tf_to_torch(model)
    return {key: returned[key].astype(array.dtype) for key, array in weights.state.items()}


class _Decisions:
    """A sink that passes taps on to a comparison and keeps the class logits of the whole model."""

    def __init__(self, comparison: Any, trace: Any) -> None:
        self.logits: dict[str, np.ndarray] = {}
        self._comparison, self._trace = comparison, trace

    def __call__(self, tap: Any) -> None:
        self._comparison(tap)
        logits = tap.kind == "output" and tap.path == "" and tap.name.endswith("pred_logits")
        if logits and tap.key in self._trace:
            self.logits[tap.key] = tap.array.copy()


def _capture_effects(
    recorder: Any, inputs: dict[str, Any], captured: Any, execution: str
) -> dict[str, float]:
    """The largest l2 gap of an output of the captured run: from the same program without taps
    ("same program"; not XLA, which compiles another), and from the program that is run when nothing
    is captured ("production"; not eager, where it is the same)."""
    from parity.calls import flatten
    from parity.metrics import gap

    def largest(outputs: Any) -> float:
        found, expected = (dict(flatten(one, _is_array)[1]) for one in (captured, outputs))
        return max(gap(found[name], expected[name]).l2 for name in expected)

    effects = {}
    if execution != "xla":
        effects["same program"] = largest(recorder.plain(inputs))
    if execution != "eager":
        effects["production"] = largest(recorder.forward(inputs))
    return effects


def _is_array(value: Any) -> bool:
    import numpy as np

    return isinstance(value, np.ndarray)


def _score_error(key: str, measured: Any) -> float:
    """The largest absolute error of one score that the precision claim allows."""
    from parity.judge import PRECISION_FACTOR

    own, floor = measured.reference32[key], measured.floors32[key]
    return PRECISION_FACTOR * max(own.max, floor.max) * own.rms
