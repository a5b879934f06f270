"""`parity trajectory`: trains both models side by side and measures how far they come apart."""

import contextlib
import dataclasses
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maskformer.errors import InputError
from parity.claims import claim, running_ratio
from parity.judge import FUNCTION_FACTOR, PRECISION_FACTOR
from replication import options

if TYPE_CHECKING:
    import numpy as np

    from maskformer.config import ModelConfig
    from maskformer.solver import SolverConfig

SCHEMA = "maskformer-replication/trajectory/1"
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
    """The TensorFlow side, one update at a time; dropout is off."""

    def __init__(self, request: Request, weights: Any, dtype: str) -> None:
        from functools import partial

        from replication import pair
        from tf_impl.optimizer import build_optimizer
        from tf_impl.train_step import compiled_step, train_step
        from weight_conversion.layouts import tf_variables

        self.request, self.dtype = request, dtype
        self.model = pair.build_port(request.config, weights, dtype)
        optimizer = build_optimizer(self.model, request.solver, dtype)
        if request.execution == "eager":
            optimizer.build(self.model.trainable_variables)
            self.run: Any = partial(train_step, self.model, optimizer)
        else:
            compiled = request.execution == "xla"
            self.run = compiled_step(self.model, optimizer, jit_compile=compiled)
        self.most = max(len(target["labels"]) for *_, all_ in batches(request) for target in all_)
        trainable = {id(variable) for variable in self.model.trainable_variables}
        self.variables = {
            key: (variable, layout)
            for key, (variable, layout) in tf_variables(self.model).items()
            if id(variable) in trainable
        }

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
        return {
            key: layout.to_torch(variable.numpy())
            for key, (variable, layout) in self.variables.items()
        }


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
        advance(row)
    judged = float64_claims if request.dtype == "float64" else float32_claims
    claims = judged(request, steps)
    other = "twin" if request.dtype == "float64" else "torch"
    return {
        "schema": SCHEMA,
        "verdict": "holds" if all(one["verdict"] == "holds" for one in claims) else "fails",
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


def _largest(steps: Sequence[dict[str, Any]], name: str, measure: str) -> dict[str, Any]:
    """The largest value of one measure over all steps, and the first step that has it."""
    row = max(steps, key=lambda row: row[name][measure])
    return {"value": row[name][measure], "step": row["step"]}


def float64_claims(request: Request, steps: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
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
                {
                    "rule": "largest",
                    "values": gaps,
                    "limit": {"name": "trajectory_loss_gap", "times": 1},
                },
                f"largest relative gap of any step; at a base rate of at most {CALM_RATE:g} "
                "training does not amplify rounding",
                request.command,
            )
            | {"step": loss["step"]},
            claim(
                "pairs",
                "Every query is matched to the same target at every step",
                {"rule": "sum", "values": pairs, "limit": 0},
                "queries that are matched otherwise, over all layers and steps",
                request.command,
            )
            | {"step": next((int(step) for step, count in pairs.items() if count), None)},
        ]
    return claims


def float32_claims(request: Request, steps: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """In float32 the port strays from the float64 run no faster than PyTorch's float32 does."""
    return [
        _ratio_claim(
            steps,
            measure,
            "torch",
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
) -> dict[str, Any]:
    """The port's largest gap up to each step, in units of that of `beside` up to there.

    `least` is the rounding of one number, below which no gap is counted.
    """
    measured = {
        "rule": "running",
        "port": {str(row["step"]): row["port"][measure] for row in steps},
        "beside": {str(row["step"]): row[beside][measure] for row in steps},
        "least": least,
        "limit": {"name": limit, "times": 1},
    }
    words = {"twin": "the reference's twin", "torch": "PyTorch in float32"}[beside]
    one = claim(
        f"{beside}_{measure}",
        title,
        measured,
        f"the port's largest gap up to a step in units of that of {words} up to there, which "
        f"counts as no less than the rounding of one number, {least:.2g}",
        command,
    )
    _, place = running_ratio(measured)
    return {**one, "step": None if place is None else int(place)}


def summary(result: dict[str, Any]) -> str:
    """The result in a few lines that a person reads on a terminal."""
    other = result["beside"]
    lines = [
        f"verdict: {result['verdict']} ({len(result['steps'])} steps of {result['config']}, "
        f"{result['dtype']}, base learning rate {result['base_lr']:g}, batch {result['batch']} of "
        f"{result['size']}, TensorFlow {result['execution']})"
    ]
    for one in result["claims"]:
        at = "" if one["step"] is None else f" at step {one['step']}"
        lines.append(
            f"{one['verdict']}: {one['title']}: {one['value']:.3g}{at}, limit {one['limit']:g}"
        )
    beside = {"twin": "the reference's twin", "torch": "PyTorch in float32"}[other]
    lines.append(f"worst step, TensorFlow | {beside}:")
    for measure, title in MEASURES.items():
        figures = [result["worst"][measure][name] for name in ("port", other)]
        text = " | ".join(f"{one['value']:.3g} (step {one['step']})" for one in figures)
        lines.append(f"  {title}: {text}")
    first, last = result["steps"][0], result["steps"][-1]
    lines.append(f"loss of the reference: {first['total']:.6g} first, {last['total']:.6g} last")
    if result["dtype"] == "float32":
        ours, theirs = (last[name]["weight_gap"] for name in ("port", "torch"))
        faster = "faster" if ours > theirs else "no faster"
        lines.append(
            f"TensorFlow strays {faster} than PyTorch: its weights end "
            f"{ours / theirs if theirs else math.inf:.2f} times as far from float64"
        )
    return "\n".join(lines)


def solver_for(name: str, rate: str) -> "SolverConfig":
    """The published solver of a configuration; `rate` "published" or a base learning rate."""
    from maskformer.detectron2_config import entry_of

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


def register(app: typer.Typer) -> None:
    """Adds `parity trajectory`."""

    @app.command(
        name="trajectory",
        epilog="Example: parity trajectory --config tiny --steps 100 --dtype float64",
    )
    def command(
        config: options.ConfigOrTiny = None,
        config_file: options.ConfigFile = None,
        steps: options.Steps = 100,
        dtype: options.Dtype = "float64",
        batch: options.Batch = 1,
        size: options.Size = "64x96",
        lr: Annotated[
            str, typer.Option(help="Base learning rate, or `published`.", metavar="X|published")
        ] = "published",
        weights: options.Weights = "seeded:0",
        execution: options.Execution = "graph",
        out: options.Out = None,
        as_json: options.AsJson = False,
    ) -> None:
        """Train both models from the same weights on the same batches and measure the gaps.

        Exit status: 0 they stay together, 1 they do not, 2 wrong usage or input.
        """
        from maskformer.detectron2_config import entry_of

        options.one_of("--dtype", dtype, DTYPES)
        options.one_of("--execution", execution, EXECUTIONS)
        options.at_least_one("--steps", steps)
        options.at_least_one("--batch", batch)
        config = options.config_text(config, config_file, options.TINY)
        model = entry_of(config).model
        if model.is_per_pixel:
            raise InputError(
                f"{config} has a per-pixel head",
                "a trajectory compares matchings",
                "name a configuration with a mask head, such as tiny",
            )
        request = Request(
            config=model,
            solver=solver_for(config, lr),
            steps=steps,
            dtype=dtype,
            batch=batch,
            size=size,
            weights=weights,
            execution=execution,
            command=options.command_line(),
        )
        with _progress(request) as advance:
            result = trajectory(request, advance)
        options.keep(result, out, "trajectory.json")
        options.end(result, as_json, lambda: summary(result), result["verdict"] == "holds")


@contextlib.contextmanager
def _progress(request: Request) -> "Iterator[Callable[[dict[str, Any]], None]]":
    """A bar of updates on a terminal, else a line for every tenth of them, on standard error."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    other = "twin" if request.dtype == "float64" else "torch"
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("building both models", total=request.steps)
        if not console.is_terminal:
            print("building both models ...", file=sys.stderr, flush=True)

        def advance(row: dict[str, Any]) -> None:
            done = row["step"] + 1
            text = f"loss gap {row['port']['loss_gap']:.1e}, {other} {row[other]['loss_gap']:.1e}"
            bar.update(task, completed=done, description=text)
            tenth = max(1, request.steps // 10)
            if not console.is_terminal and (done % tenth == 0 or done == 1):
                print(f"[{done}/{request.steps}] {text}", file=sys.stderr, flush=True)

        yield advance
