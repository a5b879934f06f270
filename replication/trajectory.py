"""`parity trajectory`: trains both models side by side and measures how far they come apart."""

import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maskformer.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from maskformer.config import ModelConfig
    from maskformer.solver import SolverConfig

SCHEMA = "maskformer-replication/trajectory/1"
DTYPES = ("float64", "float32")
LOSS_LIMIT = 1e-9  # relative gap of the total loss at a rate at which training is not chaotic
CALM_RATE = 1e-6  # at and below this rate, it is not
TWIN_FACTOR = 32.0
PRECISION_FACTOR = 4.0


@dataclass(frozen=True)
class Request:
    """What to train: `steps` updates on `batch` synthetic images of `size` ("HxW") each."""

    config: "ModelConfig"
    solver: "SolverConfig"
    steps: int = 100
    dtype: str = "float64"
    batch: int = 1
    size: str = "64x96"
    weights: str = "seeded:0"
    command: str = "parity trajectory"


@dataclass
class Record:
    """One training run, step by step: losses, gradient norms, pairs, and weights after the update.

    `pairs` holds per step one int array per decoder layer and image: the target of each query, -1
    where there is none.
    """

    losses: "list[dict[str, float]]"
    totals: list[float]
    norms: list[float]
    pairs: "list[np.ndarray | None]"
    weights: "list[dict[str, np.ndarray]]"


def batches(request: Request) -> "list[tuple[np.ndarray, np.ndarray, list[dict[str, Any]]]]":
    """Four different batches, which the steps go through in turn: images, sizes, targets."""
    from maskformer.images import batch_images, parse_size, synthetic_image
    from replication.training_pair import synthetic_targets

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


class ReferenceRun:
    """The PyTorch side, one update at a time; dropout is off."""

    def __init__(self, request: Request, weights: Any, dtype: str, seed: int | None = None) -> None:
        """With `seed`, the weights start moved by up to one unit in the last place."""
        import torch

        from parity.metrics import perturb_ulp
        from replication import pair
        from torch_reference.optimizer import build_optimizer
        from torch_reference.schedule import SolverSchedule

        self.request, self.dtype = request, dtype
        self.model = pair.build_reference(request.config, weights, dtype)
        if seed is not None:
            for index, parameter in enumerate(self.model.parameters()):
                moved = perturb_ulp(parameter.detach().numpy(), seed + index)
                parameter.data = torch.from_numpy(moved)
        self.optimizer = build_optimizer(self.model, request.solver)
        self.schedule = SolverSchedule(self.optimizer, request.solver)

    def step(self, images: Any, sizes: Any, targets: Any) -> dict[str, Any]:
        """One update: losses, total, norm, pairs."""
        from replication.training_pair import reference_batch
        from torch_reference.train_step import train_step

        kept: list[Any] = []
        batch = reference_batch(self.request.config, images, sizes, targets, self.dtype)
        hook = self.model.criterion.matcher.register_forward_hook(
            lambda module, args, found: kept.append(found)
        )
        try:
            result = train_step(self.model, self.optimizer, batch)
        finally:
            hook.remove()
        self.schedule.step()
        queries = self.request.config.predictor.num_queries
        return {
            "losses": {name: float(value) for name, value in result.losses.items()},
            "total": float(result.total),
            "norm": float(result.gradient_norm),
            "pairs": _target_of_query(kept, queries),
        }

    def weights(self) -> "dict[str, np.ndarray]":
        """The parameters by state-dict key; views, valid until the next step."""
        return {key: p.detach().numpy() for key, p in self.model.named_parameters()}


class PortRun:
    """The TensorFlow side, one update at a time, as one graph; dropout is off."""

    def __init__(self, request: Request, weights: Any, dtype: str) -> None:
        from replication import pair
        from tf_impl.optimizer import build_optimizer
        from tf_impl.train_step import compiled_step

        self.request, self.dtype = request, dtype
        self.model = pair.build_port(request.config, weights, dtype)
        self.optimizer = build_optimizer(self.model, request.solver, dtype)
        self.run = compiled_step(self.model, self.optimizer)
        self.most = max(len(target["labels"]) for *_, all_ in batches(request) for target in all_)

    def step(self, images: Any, sizes: Any, targets: Any) -> dict[str, Any]:
        """One update: losses, total, norm, pairs."""
        from replication.training_pair import port_batch

        config = self.request.config
        batch = port_batch(config, images, sizes, targets, self.dtype, self.most)
        result = self.run(batch)
        return {
            "losses": {name: float(value) for name, value in result.losses.items()},
            "total": float(result.total),
            "norm": float(result.gradient_norm),
            "pairs": result.matching.target_of_query.numpy(),
        }

    def weights(self) -> "dict[str, np.ndarray]":
        """The trainable variables by state-dict key, in torch's layout."""
        from replication.training_pair import keyed

        return keyed(self.model, [variable.numpy() for variable in self.model.trainable_variables])


def _target_of_query(kept: Sequence[Any], queries: int) -> "np.ndarray":
    """int [L,B,Q] from each layer's (queries, targets) per image; -1 where unmatched."""
    import numpy as np

    found = np.full((len(kept), len(kept[0]), queries), -1)
    for layer, images in enumerate(kept):
        for image, (rows, columns) in enumerate(images):
            found[layer, image, rows] = columns
    return found


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
    """How far one step is from that of the reference; gaps are relative."""
    return {
        "loss_gap": _relative(ours["total"], theirs["total"]),
        "worst_loss": max(
            (_relative(ours["losses"][name], value), name)
            for name, value in theirs["losses"].items()
        )[1],
        "norm_gap": _relative(ours["norm"], theirs["norm"]),
        "pairs_differ": int((ours["pairs"] != theirs["pairs"]).sum()),
        "weight_gap": gap,
    }


def _relative(value: float, reference: float) -> float:
    return abs(value - reference) / abs(reference) if reference else abs(value)


def trajectory(request: Request, advance: Any = lambda done, total: None) -> dict[str, Any]:
    """Both trajectories, step by step, and the claims on them.

    In float64 the port and the reference's own twin, which starts from weights moved by up to one
    unit in the last place, are compared with the reference. In float32 both frameworks are compared
    with the float64 reference. `advance(done, steps)` is called after every step.
    """
    from parity.provenance import provenance
    from replication import pair

    weights = pair.load_weights(request.weights, request.config)
    runs = {"reference": ReferenceRun(request, weights, "float64")}
    if request.dtype == "float64":
        runs["twin"] = ReferenceRun(request, weights, "float64", seed=0)
        runs["port"] = PortRun(request, weights, "float64")
    else:
        runs["torch"] = ReferenceRun(request, weights, "float32")
        runs["port"] = PortRun(request, weights, "float32")
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
        advance(number + 1, request.steps)
    claims = float64_claims(request, steps) if request.dtype == "float64" else float32_claims(steps)
    return {
        "schema": SCHEMA,
        "verdict": "holds" if all(claim["holds"] for claim in claims) else "fails",
        "config": request.config.name,
        "dtype": request.dtype,
        "base_lr": request.solver.base_lr,
        "batch": request.batch,
        "size": request.size,
        "claims": claims,
        "steps": steps,
        "command": request.command,
        "provenance": provenance(
            config=request.config.name,
            config_sha256=request.config.digest,
            weights=weights.source,
            weights_sha256=weights.sha256,
        ),
    }


def float64_claims(request: Request, steps: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The port stays as near to the reference as the reference's own twin does."""
    claims = [_twin_claim(steps, "weight_gap"), _twin_claim(steps, "loss_gap")]
    if request.solver.base_lr <= CALM_RATE:
        worst = max(steps, key=lambda row: row["port"]["loss_gap"])
        claims += [
            {
                "id": "loss",
                "title": "The total loss is the same at every step",
                "value": worst["port"]["loss_gap"],
                "limit": LOSS_LIMIT,
                "step": worst["step"],
                "holds": worst["port"]["loss_gap"] <= LOSS_LIMIT,
            },
            {
                "id": "pairs",
                "title": "Every query is matched to the same target at every step",
                "value": sum(row["port"]["pairs_differ"] for row in steps),
                "limit": 0,
                "step": next((r["step"] for r in steps if r["port"]["pairs_differ"]), None),
                "holds": not any(row["port"]["pairs_differ"] for row in steps),
            },
        ]
    return claims


def _twin_claim(steps: Sequence[dict[str, Any]], measure: str) -> dict[str, Any]:
    """The largest gap of the port up to each step, in units of the twin's largest up to there."""
    import numpy as np

    epsilon = float(np.finfo(np.float64).eps)
    worst, place, ours, own = 0.0, 0, 0.0, epsilon
    for row in steps:
        ours = max(ours, row["port"][measure])
        own = max(own, row["twin"][measure])
        if ours / own > worst:
            worst, place = ours / own, row["step"]
    return {
        "id": f"twin_{measure}",
        "title": f"The {measure.replace('_', ' ')} stays within {TWIN_FACTOR:g} times that of the "
        "reference to itself, started one unit in the last place away",
        "value": worst,
        "limit": TWIN_FACTOR,
        "step": place,
        "holds": worst <= TWIN_FACTOR,
    }


def float32_claims(steps: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """In float32 the port strays from the float64 run no faster than PyTorch's float32 does."""
    claims = []
    for measure in ("weight_gap", "loss_gap"):
        worst, place, ours, own = 0.0, 0, 0.0, 0.0
        for row in steps:
            ours = max(ours, row["port"][measure])
            own = max(own, row["torch"][measure])
            ratio = ours / own if own else (math.inf if ours else 0.0)
            if ratio > worst:
                worst, place = ratio, row["step"]
        claims.append(
            {
                "id": f"stray_{measure}",
                "title": f"In float32 TensorFlow's {measure.replace('_', ' ')} from float64 stays "
                f"within {PRECISION_FACTOR:g} times PyTorch's",
                "value": worst,
                "limit": PRECISION_FACTOR,
                "step": place,
                "holds": worst <= PRECISION_FACTOR,
            }
        )
    return claims


def summary(result: dict[str, Any]) -> str:
    """The result in a few lines that a person reads on a terminal."""
    lines = [
        f"verdict: {result['verdict']} ({len(result['steps'])} steps of {result['config']}, "
        f"{result['dtype']}, base learning rate {result['base_lr']:g})"
    ]
    for claim in result["claims"]:
        sign = "holds" if claim["holds"] else "fails"
        at = "" if claim["step"] is None else f" at step {claim['step']}"
        lines.append(
            f"{sign}: {claim['title']}: {claim['value']:.3g}{at}, limit {claim['limit']:g}"
        )
    last = result["steps"][-1]
    other = "twin" if result["dtype"] == "float64" else "torch"
    lines.append(
        f"last step: loss {last['total']:.9g}; weight gap of the port "
        f"{last['port']['weight_gap']:.3g}, of {other} {last[other]['weight_gap']:.3g}; "
        f"differing pairs {last['port']['pairs_differ']}, {last[other]['pairs_differ']}"
    )
    if result["dtype"] == "float32":
        ours, theirs = last["port"]["weight_gap"], last["torch"]["weight_gap"]
        faster = "faster" if ours > theirs else "no faster"
        lines.append(
            f"TensorFlow strays {faster} than PyTorch: {ours / theirs if theirs else 1:.2f} x"
        )
    return "\n".join(lines)


def solver_for(name: str, rate: str) -> "SolverConfig":
    """The published solver of a configuration; `rate` "published" or a base learning rate."""
    from maskformer import zoo

    solver = zoo.get(name).solver
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


def register(app: typer.Typer) -> None:
    """Adds `parity trajectory`."""

    @app.command(
        name="trajectory",
        epilog="Example: parity trajectory --config tiny --steps 100 --dtype float64",
    )
    def command(
        config: Annotated[str, typer.Option(help="Name of a zoo configuration.")] = "tiny",
        steps: Annotated[int, typer.Option(help="How many updates.")] = 100,
        dtype: Annotated[str, typer.Option(help="float64 or float32.")] = "float64",
        batch: Annotated[int, typer.Option(help="Synthetic images in a batch.")] = 1,
        size: Annotated[str, typer.Option(help="HxW of the images.")] = "64x96",
        lr: Annotated[
            str, typer.Option(help="Base learning rate, or `published`.", metavar="X|published")
        ] = "published",
        weights: Annotated[str, typer.Option(help="seeded:N, or a checkpoint file.")] = "seeded:0",
        as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    ) -> None:
        """Train both models from the same weights on the same batches and measure the gaps.

        Exit status: 0 they stay together, 1 they do not, 2 wrong usage or input.
        """
        from maskformer import zoo

        if dtype not in DTYPES:
            raise InputError(f"--dtype is {dtype!r}", f"expected one of {', '.join(DTYPES)}")
        for name, value in (("--steps", steps), ("--batch", batch)):
            if value < 1:
                raise InputError(f"{name} is {value}", "expected at least 1")
        model = zoo.model_config(config)
        if model.is_per_pixel:
            raise InputError(
                f"{config} has a per-pixel head",
                "a trajectory compares matchings",
                "name a configuration with a mask head, such as tiny",
            )
        import shlex

        request = Request(
            config=model,
            solver=solver_for(config, lr),
            steps=steps,
            dtype=dtype,
            batch=batch,
            size=size,
            weights=weights,
            command=shlex.join(["parity", *sys.argv[1:]]),
        )
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("updates", total=steps)
            result = trajectory(request, lambda done, _: progress.update(task, completed=done))
        print(json.dumps(result, allow_nan=False) if as_json else summary(result))
        raise typer.Exit(0 if result["verdict"] == "holds" else 1)
