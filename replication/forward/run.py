"""`parity audit`: the engine's audit of our pair, with the claims that only a MaskFormer has."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskformer.family import family_of
from parity.auditing.options import Options, Runs
from parity.auditing.result import Input
from parity.errors import InputError
from parity.judge import BFLOAT16
from parity.steps import ENDLESS, Budget, Steps
from parity.trace import Tap
from replication.forward.executions import COMPILED, EXECUTIONS

if TYPE_CHECKING:
    import numpy as np

    from maskformer.model.config import ModelConfig
    from maskformer.model.solver import SolverConfig
    from parity.auditing.pair import Pair
    from parity.auditing.reference import Reference
    from parity.auditing.result import AuditResult, Measured
    from parity.auditing.unfinished import Unfinished
    from parity.claims import Claim
    from parity.localise import Localisation
    from replication.sides.weights import Weights

    Claims = list[Claim]

ASKED_FOR = (BFLOAT16,)
"""Executions of another precision, which are run only where they are named."""
LOSS_SEED = 0  # of the case on which a reference with other auxiliary outputs is compared in loss
TRAINING = "losses, matching, gradients and weight updates"
NOT_VERIFIED = (
    TRAINING,
    "data pipelines, and predictions for other images",
    "training runs and the PQ or mIoU they reach",
    "execution on a TPU",
)
PIXELS = ("black", "white", "two levels", "one bright")
ONE_IMAGE = "a training step of several images, as `--batch 2` has them"
PADDED = "images that are padded in a batch, as `--size 64x96,48x80` has them"


@dataclass(frozen=True)
class Request:
    """What to audit; without `executions` the float64 claim only.

    `images` are files, resized to `short_side` pixels where given; without any, `batch` synthetic
    images of each `size` ("HxW", several by commas) are drawn and padded to the largest; `pixels`
    other than "drawn" takes extreme ones, see `PIXELS`. With `extreme` every module also runs alone
    on extreme inputs. `only`
    keeps the taps at and below one module path. `isolate` runs every module on the reference's
    inputs even where nothing differs. `capture_effect` measures what reading the taps changes.
    With `train`, one training step by this solver is compared as well. The port has the reference's
    `weights`, or those of a file of its own, `port_weights`. `search` is how long causes are
    searched for, `so_far` keeps what is found while it is found, and `first` is told what the first
    execution in float32 shows.
    """

    config: "ModelConfig"
    weights: str
    images: tuple[Path, ...] = ()
    size: str = "128x160"
    batch: int = 1
    short_side: int | None = None
    pixels: str = "drawn"
    extreme: bool = False
    executions: tuple[str, ...] = EXECUTIONS
    reference: str = "builtin"
    only: str | None = None
    isolate: bool = False
    search: Budget = ENDLESS
    so_far: "Unfinished | None" = None
    first: "Callable[[AuditResult], None] | None" = None
    capture_effect: bool = False
    train: "SolverConfig | None" = None
    port_weights: str | None = None
    command: str = "parity audit"


def load_images(request: Request) -> tuple["np.ndarray", "np.ndarray", list[Input]]:
    """The batch uint8 [N,H,W,3], its sizes int32 [N,2], and each image's name, size and sha256."""
    from maskformer.data.images import (
        batch_images,
        read_image,
        resize_short_side,
        size_for,
        synthetic_image,
    )

    if request.images:
        images = [read_image(path) for path in request.images]
        if request.short_side is not None:
            images = [resize_short_side(image, request.short_side) for image in images]
        names = [path.name for path in request.images]
    else:
        if request.batch < 1:
            raise InputError(
                f"--batch is {request.batch}", "expected at least 1 image", "for example --batch 1"
            )
        # Checked before drawing, which a size of zero would break.
        shapes = [size_for(request.config, one) for one in request.size.split(",")] * request.batch
        images = [
            extreme_image(synthetic_image(*shape, index), request.pixels)
            for index, shape in enumerate(shapes)
        ]
        names = [f"synthetic {index}" for index in range(len(images))]
    batch, sizes = batch_images(images, request.config)
    described = [
        Input(
            name,
            f"{image.shape[0]}x{image.shape[1]}",
            hashlib.sha256(image.tobytes()).hexdigest(),
        )
        for name, image in zip(names, images, strict=True)
    ]
    return batch, sizes, described


def extreme_image(image: "np.ndarray", kind: str) -> "np.ndarray":
    """An image [H,W,3] uint8 made extreme in a way of `PIXELS`; "drawn" leaves it as it is."""
    import numpy as np

    if kind == "drawn":
        return image
    if kind == "two levels":
        return np.where(image > np.median(image), np.uint8(255), np.uint8(0))
    if kind == "one bright":
        found = np.zeros_like(image)
        found[image.shape[0] // 2, image.shape[1] // 3] = 255
        return found
    return np.full_like(image, {"black": 0, "white": 255}[kind])


@dataclass(frozen=True)
class Case:
    """What a request stands for: the pair, how it is audited, and what both were made from.

    `port_weights` are the port's own where it has not the reference's.
    """

    request: Request
    batch: "np.ndarray"
    sizes: "np.ndarray"
    weights: "Weights"
    port_weights: "Weights | None"
    pair: "Pair"
    options: Options

    @property
    def float64(self) -> Options:
        """The options of an audit in float64 alone."""
        return dataclasses.replace(self.options, executions=())


def audit(request: Request, steps: Steps) -> "AuditResult":
    """The result of one audit.

    Raises InputError for images or weights that cannot be used.
    """
    from parity.audits import audit_with

    case = prepare(request, steps)
    evidence: dict[str, Any] = {}
    options = dataclasses.replace(case.options, claims=lambda runs: _claims(case, runs, steps))
    if request.reference == "hf":
        options = dataclasses.replace(
            options, places=lambda *found: _witnessed(case, evidence, *found)
        )
    result = audit_with(case.pair, options, steps)
    return dataclasses.replace(result, witness=evidence)


def prepare(request: Request, steps: Steps) -> Case:
    """The case of a request, whose options judge the forward pass alone.

    Raises InputError for images or weights that cannot be used.
    """
    batch, sizes, described = load_images(request)

    from replication.sides.weights import load_weights

    if request.reference == "hf" and request.isolate:
        raise InputError(
            "--isolate needs a reference whose modules are the port's",
            "transformers arranges its modules in another way",
            "leave it out, or give --reference builtin",
        )
    with steps("load the weights"):
        weights, own = load_weights(request.weights, request.config), None
    if request.port_weights is not None:
        with steps("load the port's weights"):
            own = load_weights(request.port_weights, request.config)
    port = {"port_weights": own.source, "port_weights_sha256": own.sha256} if own else {}
    outputs = family_of(request.config).outputs
    options = Options(
        request.executions,
        request.isolate,
        request.only,
        request.capture_effect,
        decided=lambda tap: _is_output(tap) and tap.name.endswith(outputs.classes),
        kept=outputs.last,
        search=request.search,
        so_far=request.so_far,
        first=request.first,
        command=request.command,
        inputs=described,
        provenance={
            "config": request.config.name,
            "config_sha256": request.config.digest,
            "weights": weights.source,
            "weights_sha256": weights.sha256,
            "reference": request.reference,
            **({} if request.only is None else {"only": request.only}),
            **port,
        },
        not_verified=_not_verified(request, batch, sizes),
    )
    pair = _pair(request, batch, sizes, weights, own)
    return Case(request, batch, sizes, weights, own, pair, options)


def _pair(
    request: Request,
    batch: "np.ndarray",
    sizes: "np.ndarray",
    weights: "Weights",
    own: "Weights | None",
) -> "Pair":
    """Both models; the reference is the request's, the port ours."""
    from parity.auditing.pair import InDtype, Pair
    from parity.names import SameNames
    from parity.weights import Loaded
    from replication.forward import hugging_face
    from replication.sides.side import PORT, REFERENCE, implementation
    from replication.sides.torch_side import build_reference
    from weight_conversion.layouts import tf_to_torch

    config, kind = request.config, request.reference
    library = kind == "hf"
    reference, port = implementation(REFERENCE), implementation(PORT)
    return Pair(
        InDtype(lambda dtype: build_reference(config, weights, dtype, kind)),
        InDtype(lambda dtype: port.build(config, own or weights, dtype)),
        reference.inputs(batch, sizes, "float32"),
        port.inputs(batch, sizes, "float32"),
        names=hugging_face.LibraryNames(config) if library else SameNames(),
        weights=Loaded(weights.state, tf_to_torch, own.source if own else ""),
        axes=hugging_face.AXES if library else reference.axes,
        port_axes=port.axes,
        stage=family_of(config).stage_of,
        copies=kind != "builtin",  # the others work in place
        extreme_inputs=request.extreme,
    )


def _is_output(tap: Tap) -> bool:
    return tap.kind == "output" and tap.path == ""


def _not_verified(request: Request, batch: "np.ndarray", sizes: "np.ndarray") -> tuple[str, ...]:
    texts = [text for text in NOT_VERIFIED if text != TRAINING or request.train is None]
    if (sizes == batch.shape[1:3]).all():
        texts.append(PADDED)
    if request.train is not None and len(batch) == 1:
        texts.append(ONE_IMAGE)
    if request.reference == "hf":
        from replication.forward import hugging_face

        texts.append(hugging_face.NOT_VERIFIED)
    return tuple(texts)


def _claims(case: Case, runs: Runs, steps: Steps) -> "Claims":
    """The claims about what is predicted, and about a training step where it is asked for."""
    from replication.forward import inference

    request, config, claims = case.request, case.request.config, []
    if request.only is None:
        with steps("inference and metrics"):
            claims += inference.inference_claims(
                config,
                inference.Inputs(
                    case.batch.shape[1:3], [tuple(map(int, size)) for size in case.sizes]
                ),
                runs.reference,
                runs.moved,
                runs.port,
                {name: (runs.reference32, one) for name, one in runs.port32.items()},
                request.command,
            )
    if request.train is not None:
        from replication.training import step as training

        claims += training.training_claims(
            training.Case(config, request.train, case.weights, case.port_weights),
            case.batch,
            case.sizes,
            request.command,
            steps,
            isolate=request.isolate,
            bfloat16=BFLOAT16 in request.executions,
            executions=[one for one in request.executions if one in COMPILED],
        )
    return claims


def _witnessed(
    case: Case,
    evidence: dict[str, Any],
    reference: "Reference",
    outputs: Mapping[str, Any],
    measured: "Measured",
) -> "list[Localisation]":
    """The places where the reference is another library's model; `evidence` receives the rest."""
    from parity.auditing.pair import cast
    from replication.forward import hugging_face_evidence as witness

    config = case.request.config
    localisations, sources = witness.explain(
        config, case.weights, reference.trace, outputs, measured.function, measured.floors
    )
    evidence["sources_of_outputs"] = sources
    evidence["loss"] = witness.effect_on_loss(config, reference.outputs, outputs, LOSS_SEED)
    evidence["training"] = witness.training_differences(
        reference.recorder.model, cast(case.pair.inputs, "float64")
    )
    return localisations
