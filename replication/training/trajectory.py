"""Both models trained side by side, and how far they come apart."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from parity.claims import Claim, all_hold
from parity.errors import InputError
from parity.training import trajectory as engine
from parity.training.trajectory import Update, followed
from replication.sides.side import PORT, REFERENCE, implementation
from reports.chapters.trajectory import TrajectoryResult, Worst

if TYPE_CHECKING:
    import numpy as np

    from maskformer.model.config import ModelConfig
    from maskformer.model.solver import SolverConfig
    from replication.sides.implementation import Updates

DTYPES = ("float64", "float32")
CALM_RATE = 1e-6  # at and below this rate, it is not
EXECUTIONS = ("graph", "xla", "eager")
MEASURES = {  # what is measured in every step, in words
    "loss_gap": "gap of the total loss, relative",
    "norm_gap": "gap of the gradient norm, relative",
    "weight_gap": "gap of all weights, relative",
    "pairs_differ": "queries matched otherwise",
}


@dataclass(frozen=True)
class Request:
    """What to train: `steps` updates on `batch` synthetic images of `size` ("HxW") each.

    `execution` is how TensorFlow runs a step: "graph", "xla" (minutes to compile) or "eager".
    """

    config: "ModelConfig"
    solver: "SolverConfig"
    steps: int = 100
    dtype: str = "float64"
    batch: int = 1
    size: str = "64x96"
    weights: str = "seeded:0"
    execution: str = "graph"
    command: str = "parity trajectory"


def batches(request: Request) -> "list[tuple[np.ndarray, np.ndarray, list[dict[str, Any]]]]":
    """Four different batches, which the steps go through in turn: images, sizes, targets."""
    from maskformer.data.images import batch_images, size_for, synthetic_image
    from maskformer.data.targets import synthetic_targets

    height, width = size_for(request.config, request.size)
    made = []
    for index in range(min(4, request.steps)):
        images = [
            synthetic_image(height, width, index * request.batch + one)
            for one in range(request.batch)
        ]
        batch, sizes = batch_images(images, request.config)
        targets = synthetic_targets(request.config, sizes, batch.shape[1:3], index)
        made.append((batch, sizes, targets))
    return made


def companion(dtype: str) -> str:
    """The run that the port is held to, as rows call it: "twin", or the reference in float32."""
    return "twin" if dtype == "float64" else REFERENCE


def companion_title(name: str) -> str:
    """A `companion` in words."""
    return "the reference's twin" if name == "twin" else f"{implementation(name).title} in float32"


def reference_run(request: Request, weights: Any, dtype: str, seed: int | None = None) -> "Updates":
    """The reference at the start of a trajectory; with `seed` its weights start moved by up to one
    unit in the last place."""
    updates = implementation(REFERENCE).updates
    return updates(request.config, request.solver, weights, dtype, seed=seed)


def port_run(request: Request, weights: Any, dtype: str) -> "Updates":
    """The port at the start of a trajectory, each step run as the request says."""
    most = max(len(target["labels"]) for *_, all_ in batches(request) for target in all_)
    how = {"execution": request.execution, "most": most}
    return implementation(PORT).updates(request.config, request.solver, weights, dtype, **how)


def _batched(run: "Updates", data: Sequence[tuple]) -> engine.Run:
    """A side in training, which goes through the batches in turn."""
    return SimpleNamespace(
        step=lambda number: run.step(*data[number % len(data)]), weights=run.weights
    )


def trajectory(
    request: Request, advance: Callable[[Update], None] = lambda row: None
) -> TrajectoryResult:
    """Both trajectories, step by step, and the claims on them.

    In float64 the port and the reference's own twin, which starts from weights moved by up to one
    unit in the last place, are compared with the reference. In float32 both frameworks are compared
    with the float64 reference. `advance` receives each step's figures. Only the weights of the
    current step are in memory.
    """
    from parity.provenance import provenance
    from replication.sides.weights import load_weights

    weights = load_weights(request.weights, request.config)
    other = companion(request.dtype)
    seed, data = (0 if request.dtype == "float64" else None), batches(request)
    runs = {
        "reference": reference_run(request, weights, "float64"),
        other: reference_run(request, weights, request.dtype, seed),
        "port": port_run(request, weights, request.dtype),
    }
    steps = followed(
        {name: _batched(run, data) for name, run in runs.items()}, request.steps, advance
    )
    judged = float64_claims if request.dtype == "float64" else float32_claims
    claims = judged(request, steps)
    return TrajectoryResult(
        verdict="holds" if all_hold(claims) else "fails",
        config=request.config.name,
        dtype=request.dtype,
        base_lr=request.solver.base_lr,
        batch=request.batch,
        size=request.size,
        execution=request.execution,
        beside=other,
        worst={
            measure: {
                name: Worst(*engine.largest(steps, name, measure)) for name in ("port", other)
            }
            for measure in MEASURES
        },
        claims=tuple(claims),
        steps=tuple(steps),
        command=request.command,
        provenance=provenance(
            config=request.config.name,
            config_sha256=request.config.digest,
            weights=weights.source,
            weights_sha256=weights.sha256,
        ),
    )


def float64_claims(request: Request, steps: Sequence[Update]) -> list[Claim]:
    """The port stays as near to the reference as the reference's own twin does."""
    calm = request.solver.base_lr <= CALM_RATE
    claims = engine.twin_claims(steps, request.command)
    return [*claims, *(engine.calm_claims(steps, CALM_RATE, request.command) if calm else ())]


def float32_claims(request: Request, steps: Sequence[Update]) -> list[Claim]:
    """In float32 the port strays from the float64 run no faster than PyTorch's float32 does."""
    beside = companion("float32")
    names = tuple(implementation(name).title for name in (PORT, REFERENCE))
    return engine.float32_claims(steps, (beside, companion_title(beside)), names, request.command)


def solver_for(name: str, rate: str) -> "SolverConfig":
    """The published solver of a configuration; `rate` "published" or a base learning rate."""
    from maskformer.model.detectron2_config import entry_of

    solver = entry_of(name).solver
    if rate == "published":
        return solver
    try:
        value = float(rate)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise InputError(
            f"--lr is {rate!r}",
            "expected `published` or a positive number",
            "for example --lr 1e-6",
        )
    return dataclasses.replace(solver, base_lr=value)
