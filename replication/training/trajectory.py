"""Both models trained side by side, and how far they come apart."""

import dataclasses
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from parity.claims import Claim, all_hold, claim
from parity.errors import InputError
from parity.judge import FUNCTION_FACTOR, PRECISION_FACTOR
from parity.measurements import Largest, Multiple, Running, Sum
from parity.results import TRAJECTORY as SCHEMA

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
    from maskformer.data.images import batch_images, parse_size, synthetic_image
    from maskformer.data.targets import synthetic_targets

    height, width = parse_size(request.size)
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
    from replication.sides.side import REFERENCE

    return "twin" if dtype == "float64" else REFERENCE


def companion_title(name: str) -> str:
    """A `companion` in words."""
    from replication.sides.side import implementation

    return "the reference's twin" if name == "twin" else f"{implementation(name).title} in float32"


def reference_run(request: Request, weights: Any, dtype: str, seed: int | None = None) -> "Updates":
    """The reference at the start of a trajectory; with `seed` its weights start moved by up to one
    unit in the last place."""
    from replication.sides.side import REFERENCE, implementation

    updates = implementation(REFERENCE).updates
    return updates(request.config, request.solver, weights, dtype, seed=seed)


def port_run(request: Request, weights: Any, dtype: str) -> "Updates":
    """The port at the start of a trajectory, each step run as the request says."""
    from replication.sides.side import PORT, implementation

    most = max(len(target["labels"]) for *_, all_ in batches(request) for target in all_)
    how = {"execution": request.execution, "most": most}
    return implementation(PORT).updates(request.config, request.solver, weights, dtype, **how)


def weight_gap(ours: "dict[str, np.ndarray]", theirs: "dict[str, np.ndarray]") -> float:
    """||ours - theirs|| / ||theirs|| over all parameters together, in float64."""
    import numpy as np

    squares = total = 0.0
    for key, reference in theirs.items():
        wanted = reference.astype(np.float64).ravel()
        gap = ours[key].astype(np.float64).ravel() - wanted
        squares += float(np.einsum("i,i->", gap, gap))
        total += float(np.einsum("i,i->", wanted, wanted))
    return math.sqrt(squares / total)


def compare_step(ours: dict[str, Any], theirs: dict[str, Any], gap: float) -> dict[str, Any]:
    """How far one step is from that of the reference; gaps are relative, infinite where NaN.

    A loss that only one side has is infinitely far.
    """
    names = {*ours["losses"], *theirs["losses"]}
    missing = math.inf if ours["losses"].keys() != theirs["losses"].keys() else 0.0
    by_loss = {
        name: _relative(ours["losses"].get(name, math.nan), theirs["losses"].get(name, math.nan))
        for name in sorted(names)
    }
    return {
        "loss_gap": max(missing, _relative(ours["total"], theirs["total"])),
        "worst_loss": max(by_loss, key=by_loss.__getitem__),
        "norm_gap": _relative(ours["norm"], theirs["norm"]),
        "pairs_differ": int((ours["pairs"] != theirs["pairs"]).sum()),
        "weight_gap": gap if math.isfinite(gap) else math.inf,
    }


def _relative(value: float, reference: float) -> float:
    if not (math.isfinite(value) and math.isfinite(reference)):
        return math.inf
    return abs(value - reference) / abs(reference) if reference else abs(value)


def trajectory(request: Request, advance: Callable[[Any], None] = lambda row: None) -> Any:
    """Both trajectories, step by step, and the claims on them: the result object (`SCHEMA`).

    In float64 the port and the reference's own twin, which starts from weights moved by up to one
    unit in the last place, are compared with the reference. In float32 both frameworks are compared
    with the float64 reference. `advance` receives each step's figures. Only the weights of the
    current step are in memory.
    """
    from parity.provenance import provenance
    from replication.sides.weights import load_weights

    weights = load_weights(request.weights, request.config)
    other = companion(request.dtype)
    runs = {"reference": reference_run(request, weights, "float64")}
    if request.dtype == "float64":
        runs[other] = reference_run(request, weights, "float64", seed=0)
    else:
        runs[other] = reference_run(request, weights, "float32")
    runs["port"] = port_run(request, weights, request.dtype)
    data = batches(request)
    steps = []
    for number in range(request.steps):
        found = {name: run.step(*data[number % len(data)]) for name, run in runs.items()}
        after = {name: run.weights() for name, run in runs.items()}
        row: dict[str, Any] = {
            "step": number,
            "total": found["reference"]["total"],
            "losses": found["reference"]["losses"],
            "norm": found["reference"]["norm"],
        }
        for name in runs:
            if name != "reference":
                gap = weight_gap(after[name], after["reference"])
                row[name] = compare_step(found[name], found["reference"], gap)
        steps.append(row)
        advance(row)
    judged = float64_claims if request.dtype == "float64" else float32_claims
    claims = judged(request, steps)
    return {
        "schema": SCHEMA,
        "verdict": "holds" if all_hold(claims) else "fails",
        "config": request.config.name,
        "dtype": request.dtype,
        "base_lr": request.solver.base_lr,
        "batch": request.batch,
        "size": request.size,
        "execution": request.execution,
        "beside": other,
        "worst": {
            measure: {name: _largest(steps, name, measure) for name in ("port", other)}
            for measure in MEASURES
        },
        "claims": [one.to_json() for one in claims],
        "steps": steps,
        "command": request.command,
        "provenance": provenance(
            config=request.config.name,
            config_sha256=request.config.digest,
            weights=weights.source,
            weights_sha256=weights.sha256,
        ),
    }


def _largest(steps: Sequence[dict[str, Any]], name: str, measure: str) -> dict[str, Any]:
    """The largest value of one measure over all steps, and the first step that has it."""
    row = max(steps, key=lambda row: row[name][measure])
    return {"value": row[name][measure], "step": row["step"]}


def float64_claims(request: Request, steps: Sequence[dict[str, Any]]) -> list[Claim]:
    """The port stays as near to the reference as the reference's own twin does."""
    epsilon = sys.float_info.epsilon
    claims = [
        _ratio_claim(
            steps,
            measure,
            "twin",
            "floor_factor",
            f"The {measure.replace('_', ' ')} stays within {FUNCTION_FACTOR:g} times that of the "
            "reference to itself, started one unit in the last place away",
            epsilon,
            request.command,
        )
        for measure in ("weight_gap", "loss_gap")
    ]
    if request.solver.base_lr <= CALM_RATE:
        loss = _largest(steps, "port", "loss_gap")
        gaps = {str(row["step"]): row["port"]["loss_gap"] for row in steps}
        pairs = {str(row["step"]): row["port"]["pairs_differ"] for row in steps}
        claims += [
            claim(
                "loss",
                "The total loss is the same at every step",
                Largest(gaps, Multiple("trajectory_loss_gap", 1)),
                f"largest relative gap of any step; at a base rate of at most {CALM_RATE:g} "
                "training does not amplify rounding",
                request.command,
            ).decided_by(loss["step"]),
            claim(
                "pairs",
                "Every query is matched to the same target at every step",
                Sum(pairs, 0),
                "queries that are matched otherwise, over all layers and steps",
                request.command,
            ).decided_by(next((int(step) for step, count in pairs.items() if count), None)),
        ]
    return claims


def float32_claims(request: Request, steps: Sequence[dict[str, Any]]) -> list[Claim]:
    """In float32 the port strays from the float64 run no faster than PyTorch's float32 does."""
    return [
        _ratio_claim(
            steps,
            measure,
            companion("float32"),
            "float32_ratio",
            f"In float32 TensorFlow's {measure.replace('_', ' ')} from float64 stays within "
            f"{PRECISION_FACTOR:g} times PyTorch's",
            float(2.0**-24),
            request.command,
        )
        for measure in ("weight_gap", "loss_gap")
    ]


def _ratio_claim(
    steps: Sequence[dict[str, Any]],
    measure: str,
    beside: str,
    limit: str,
    title: str,
    least: float,
    command: str,
) -> Claim:
    """The port's largest gap up to each step, in units of that of `beside` up to there.

    `least` is the rounding of one number, below which no gap is counted.
    """
    measured = Running(
        {str(row["step"]): row["port"][measure] for row in steps},
        {str(row["step"]): row[beside][measure] for row in steps},
        least,
        Multiple(limit, 1),
    )
    one = claim(
        f"{beside}_{measure}",
        title,
        measured,
        f"the port's largest gap up to a step in units of that of {companion_title(beside)} up to "
        f"there, which counts as no less than the rounding of one number, {least:.2g}",
        command,
    )
    _, place = measured.worst()
    return one.decided_by(None if place is None else int(place))


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
