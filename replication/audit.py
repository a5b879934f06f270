"""`parity audit`: proves or refutes, layer by layer, that both models compute the same function."""

import hashlib
import json
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from maskformer.errors import InputError
from replication.progress import Steps

if TYPE_CHECKING:
    import numpy as np

    from maskformer.config import ModelConfig
    from maskformer.solver import SolverConfig

EXECUTIONS = ("eager", "graph", "xla")
LOSS_SEED = 0  # of the case on which a reference with other auxiliary outputs is compared in loss
TRAINING = "losses, matching, gradients and weight updates"
NOT_VERIFIED = (
    TRAINING,
    "data pipelines, and predictions for other images",
    "training runs and the PQ or mIoU they reach",
    "execution on a TPU",
)


@dataclass(frozen=True)
class Request:
    """What to audit; without `executions` the float64 claim only.

    `images` are files, resized to `short_side` pixels where given; without any, `batch` synthetic
    images of `size` ("HxW") are drawn. `only`
    keeps the taps at and below one module path. `isolate` runs every module on the reference's
    inputs even where nothing differs. `capture_effect` measures what reading the taps changes.
    With `train`, one training step by this solver is compared as well.
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
    command: str = "parity audit"


def parse_executions(text: str) -> tuple[str, ...]:
    """The executions in a comma-separated list; raises InputError for an unknown or empty one."""
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    unknown = [name for name in names if name not in EXECUTIONS]
    if unknown:
        raise InputError(
            f"--execution has {unknown[0]!r}",
            f"expected a comma-separated list of {', '.join(EXECUTIONS)}",
            "for example --execution graph,xla",
        )
    return names


def load_images(request: Request) -> tuple["np.ndarray", "np.ndarray", list[dict[str, Any]]]:
    """The batch uint8 [N,H,W,3], its sizes int32 [N,2], and each image's name, size and sha256."""
    from maskformer.images import (
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
        height, width = parse_size(request.size)
        # Checked before drawing, which a size of zero would break.
        if min(height, width) < request.config.minimum_size:
            raise InputError(
                f"--size {request.size} is too small",
                f"{request.config.name} needs at least {request.config.minimum_size} pixels in "
                "both directions, the stride of its coarsest features",
                "give a larger size, such as 64x96",
            )
        images = [synthetic_image(height, width, index) for index in range(request.batch)]
        names = [f"synthetic {index}" for index in range(request.batch)]
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


def audit(request: Request, steps: Steps) -> dict[str, Any]:
    """The result object of one audit; see `replication.audit_result` for its contents.

    Raises InputError for images or weights that cannot be used.
    """
    batch, sizes, described = load_images(request)

    from parity import capture_torch
    from parity.explain import explain
    from parity.judge import same_decisions
    from parity.localise import localise
    from parity.pairing import Comparison
    from parity.provenance import provenance
    from replication import pair
    from replication.audit_result import BY_IDENTITY, Measured, Precision, build_result

    config = request.config
    by_table = request.reference == "hf"
    if by_table:
        if request.isolate:
            raise InputError(
                "--isolate needs a reference whose modules are the port's",
                "transformers arranges its modules in another way",
                "leave it out, or give --reference builtin",
            )
        from replication import witness

    def reference_recorder(dtype: str) -> capture_torch.Recorder:
        if by_table:
            return witness.Recorder(config, weights, dtype, request.only)
        model = pair.build_reference(config, weights, dtype, request.reference)
        copies = request.reference != "builtin"  # the original works in place
        return capture_torch.Recorder(model, pair.REFERENCE_AXES, only=request.only, clone=copies)

    def compared(sink: Any) -> Any:
        return witness.declared_only(config, sink) if by_table else sink

    with steps("load the weights"):
        weights = pair.load_weights(request.weights, config)
    with steps("reference, float64"):
        reference64 = reference_recorder("float64")
        inputs64 = pair.reference_inputs(batch, sizes, "float64")
        reference_outputs, trace = reference64(inputs64)
        if not len(trace):
            raise InputError(
                f"--only {request.only!r} selects nothing",
                "no module of the reference is at or below this path",
                "give a module path such as sem_seg_head.pixel_decoder",
            )
        measured = Measured(trace)
    with steps("rounding floor, float64"):
        measured.floors = capture_torch.measure_floors(reference64, inputs64, trace)
    if request.executions:
        with steps("reference and rounding floor, float32"):
            reference32 = reference_recorder("float32")
            inputs32 = pair.reference_inputs(batch, sizes, "float32")
            comparison = Comparison(trace)
            reference_outputs32, _ = reference32(inputs32, comparison)
            measured.reference32 = comparison.gaps
            measured.floors32 = capture_torch.measure_floors(reference32, inputs32, trace)
            del reference32

    with steps("port, float64"):
        model64 = pair.build_port(config, weights, "float64")

        from parity import capture_tf  # after tf_impl, which selects tf_keras

        port64 = capture_tf.Recorder(model64, pair.PORT_AXES, "eager", only=request.only)
        port_inputs64 = pair.port_inputs(batch, sizes, "float64")
        comparison = Comparison(trace)
        port_outputs, _ = port64(port_inputs64, compared(comparison))
        measured.function = comparison.gaps
        measured.unpaired, measured.missing = comparison.unpaired, comparison.missing()
    model32 = pair.build_port(config, weights, "float32") if request.executions else None
    returned = _returned(weights, model32 or model64)
    measured.tensors_converted = len(returned)
    measured.returned_sha256 = pair.state_digest(returned)
    measured.tensors_changed = [
        key
        for key, array in weights.state.items()
        if returned[key].tobytes() != array.tobytes() or returned[key].shape != array.shape
    ]
    port_inputs32, port_outputs32 = pair.port_inputs(batch, sizes, "float32"), {}
    for execution in request.executions:
        with steps(f"port, float32, {execution}"):
            recorder = capture_tf.Recorder(model32, pair.PORT_AXES, execution, only=request.only)
            comparison = Comparison(trace, ulps=lambda key: True)
            decided = _Decisions(comparison, trace)
            port_outputs32[execution], _ = recorder(port_inputs32, compared(decided))
            decisions = [
                same_decisions(key, array, trace[key].array, _score_error(key, measured))
                for key, array in decided.logits.items()
            ]
            measured.executions[execution] = Precision(comparison.gaps, decisions)
            if request.capture_effect:
                measured.effects[execution] = _capture_effects(
                    recorder, port_inputs32, port_outputs32[execution], execution
                )
    localisations, evidence = [], None
    different = measured.unpaired or measured.missing or _differs(measured)
    if by_table and request.only is None:
        from replication import witness_evidence

        with steps("explain the outputs"):
            localisations, sources = witness_evidence.explain(
                config, weights, trace, port_outputs, measured.function, measured.floors
            )
            evidence = {
                "sources_of_outputs": sources,
                "loss": witness_evidence.effect_on_loss(
                    config, reference_outputs, port_outputs, LOSS_SEED
                ),
                "training": witness_evidence.training_differences(reference64.model, inputs64),
            }
    elif (different or request.isolate) and request.only is None:
        with steps("localise"):
            localisations = localise(
                reference64,
                port64,
                trace,
                port_inputs64,
                measured.floors,
                explain,
                everywhere=request.isolate,
            )
    claims = []
    if request.only is None:
        from replication import audit_inference

        with steps("inference and metrics"):
            claims = audit_inference.inference_claims(
                config,
                audit_inference.Inputs(batch.shape[1:3], [tuple(map(int, size)) for size in sizes]),
                reference_outputs,
                audit_inference.reference_floors(reference64, inputs64),
                port_outputs,
                {name: (reference_outputs32, one) for name, one in port_outputs32.items()},
                request.command,
            )
    not_verified = NOT_VERIFIED
    if request.train is not None:
        from replication.training_audit import training_claims

        claims = [
            *claims,
            *training_claims(config, request.train, weights, batch, sizes, request.command, steps),
        ]
        not_verified = tuple(text for text in not_verified if text != TRAINING)
    result = build_result(
        measured,
        localisations,
        further_claims=claims,
        command=request.command,
        inputs=described,
        timings=steps.timings,
        provenance=provenance(
            config=config.name,
            config_sha256=config.digest,
            weights=weights.source,
            weights_sha256=weights.sha256,
            reference=request.reference,
        ),
        not_verified=(*not_verified, witness.NOT_VERIFIED) if by_table else not_verified,
        pairing=witness.DERIVATION if by_table else BY_IDENTITY,
    )
    return result if evidence is None else {**result, "witness": evidence}


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


def _differs(measured: Any) -> bool:
    """Whether the float64 claim fails at any tap."""
    from parity.judge import same_function

    return not all(v.passed for v in same_function(measured.function, measured.floors))


def summary(result: dict[str, Any]) -> str:
    """The result in a few lines that a person reads on a terminal."""
    float64 = result["float64"]
    lines = [
        f"verdict: {result['verdict']} ({result['taps']} tensors compared)",
        f"float64: worst gap {float64['worst_gap']:.2g} at {float64['worst_tap']}, "
        f"limit {float64['limit']:.2g}",
    ]
    lines += [
        f"float32 {name}: worst error {float(one['worst_ratio']):.2f}x the reference's own "
        f"at {one['worst_tap']}, limit {one['limit']:g}x"
        for name, one in result["float32"].items()
    ]
    lines += [f"fails: {c['title']}" for c in result["claims"] if c["verdict"] == "fails"]
    if result["first_divergence"] is not None:
        lines.append(f"first divergence: {result['first_divergence']}")
    lines += [one["evidence"] for one in result["localisations"]]
    if "witness" in result:
        loss = result["witness"]["loss"]
        lines.append(
            f"training loss: {loss['reference']['total']:.4f} with the reference's auxiliary "
            f"outputs, {loss['port']['total']:.4f} with the port's; last layer alone differs by "
            f"{loss['final_difference']:.1g}"
        )
    return "\n".join(lines)


def write_json(result: dict[str, Any], folder: Path, name: str = "audit.json") -> Path:
    """Writes `result` to `folder`/`name`, whole or not at all; returns the path."""
    from replication.audit_result import strict

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    temporary = path.with_name(f".{name}.{os.getpid()}")
    text = json.dumps(strict(result), indent=1, allow_nan=False)
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(path)
    return path


def set_threads(count: int | None) -> None:
    """Lets both frameworks use `count` threads; None leaves their defaults. Call before any run."""
    if count is None:
        return
    if count < 1:
        raise InputError(f"--threads is {count}", "expected at least 1")
    import torch

    import tf_impl  # noqa: F401 (selects tf_keras before TensorFlow is imported)

    torch.set_num_threads(count)
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(count)


def _audit_all(
    excluded: list[str],
    weights: str,
    size: str | None,
    threads: int | None,
    command: str,
    as_json: bool,
) -> NoReturn:
    """Runs `parity audit --all` and ends the program; `excluded` options were given beside it."""
    from maskformer.images import parse_size
    from replication import audit_all

    if excluded:
        raise InputError(
            f"--all does not go with {', '.join(excluded)}",
            "it audits every architecture of the zoo in float64, on one synthetic image",
            "give --weights seeded:N, --size, --threads or --json only",
        )
    if not weights.startswith("seeded:"):
        raise InputError(
            f"--all does not go with --weights {weights}",
            "a checkpoint fits one architecture",
            "give seeded:N",
        )
    size = size or audit_all.SIZE
    parse_size(size)
    result = audit_all.audit_all(weights, size, threads, command)
    print(json.dumps(result, allow_nan=False) if as_json else audit_all.table(result))
    raise typer.Exit(0 if result["verdict"] == "equal" else 1)


def register(app: typer.Typer) -> None:
    """Adds `parity audit`."""

    @app.command(
        name="audit",
        epilog="Example: parity audit --config coco_r50 --weights seeded:7 --size 112x144",
    )
    def command(
        more_images: Annotated[
            list[Path] | None, typer.Argument(metavar="[IMAGE]...", hidden=True)
        ] = None,
        config: Annotated[
            str | None, typer.Option(help="Name of a zoo configuration; coco_r50 by default.")
        ] = None,
        config_file: Annotated[
            Path | None, typer.Option(help="The original's YAML instead.", metavar="YAML")
        ] = None,
        weights: Annotated[str, typer.Option(help="seeded:N, or a checkpoint file.")] = "seeded:0",
        images: Annotated[
            list[Path] | None,
            typer.Option(help="Image files, several after one another.", metavar="FILE..."),
        ] = None,
        size: Annotated[
            str | None,
            typer.Option(help="HxW of synthetic images; 128x160, or 64x96 with --all."),
        ] = None,
        batch: Annotated[int, typer.Option(help="How many synthetic images.")] = 1,
        short_side: Annotated[
            int | None, typer.Option(help="Resize --images to this short side, in pixels.")
        ] = None,
        execution: Annotated[
            str, typer.Option(help="How TensorFlow runs in float32: eager, graph, xla.")
        ] = ",".join(EXECUTIONS),
        reference: Annotated[
            str, typer.Option(help="builtin; original or hf where installed.")
        ] = "builtin",
        only: Annotated[
            str | None, typer.Option(help="Compare one module and those below it.", metavar="PATH")
        ] = None,
        isolate: Annotated[
            bool,
            typer.Option("--isolate", help="Run every module alone on the reference's inputs."),
        ] = False,
        train: Annotated[
            bool,
            typer.Option(
                "--train", help="Also compare losses, matchings, gradients and one update."
            ),
        ] = False,
        every: Annotated[
            bool,
            typer.Option(
                "--all", help="Audit each architecture of the zoo in float64, one by one."
            ),
        ] = False,
        threads: Annotated[int | None, typer.Option(help="Threads of both frameworks.")] = None,
        out: Annotated[
            Path | None, typer.Option(help="Folder for audit.json and the report.", metavar="DIR")
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    ) -> None:
        """Compare the TensorFlow model with the PyTorch reference, every layer, on real inputs.

        Exit status: 0 equal, 1 different, 2 wrong usage or input.
        """
        words = shlex.join(["parity", *sys.argv[1:]])
        if every:
            given = {
                "--config": config,
                "--config-file": config_file,
                "--images": images or more_images,
                "--batch": batch != 1,
                "--short-side": short_side,
                "--execution": execution != ",".join(EXECUTIONS),
                "--reference": reference != "builtin",
                "--only": only,
                "--isolate": isolate,
                "--train": train,
                "--out": out,
            }
            _audit_all(
                [name for name, value in given.items() if value],
                weights,
                size,
                threads,
                words,
                as_json,
            )
        from maskformer.detectron2_config import resolve
        from replication.audit_result import strict
        from replication.pair import REFERENCES

        if reference not in REFERENCES:
            raise InputError(
                f"--reference is {reference!r}", f"expected one of {', '.join(REFERENCES)}"
            )
        if train and (reference != "builtin" or only is not None):
            raise InputError(
                "--train cannot be combined with --only or another --reference",
                "gradients run through the whole built-in reference",
                "leave the other options out",
            )
        chosen = resolve(config or (None if config_file else "coco_r50"), config_file)
        request = Request(
            config=chosen.model,
            weights=weights,
            images=(*(images or ()), *(more_images or ())),
            size=size or "128x160",
            batch=batch,
            short_side=short_side,
            executions=parse_executions(execution),
            reference=reference,
            only=only,
            isolate=isolate,
            train=chosen.solver if train else None,
            command=words,
        )
        set_threads(threads)
        total = 6 + len(request.executions) + (request.isolate or reference == "hf")
        total += 4 * train
        result = audit(request, Steps(total=total))
        if out is not None:
            from reports.render import write_report

            write_json(result, out)
            report = write_report([result], out)
            print(f"report: {report}", file=sys.stderr)
        print(json.dumps(strict(result), allow_nan=False) if as_json else summary(result))
        raise typer.Exit(0 if result["verdict"] == "equal" else 1)
