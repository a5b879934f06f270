"""`parity preflight`: would a training run work on a TPU, and what would it cost, without one."""

import json
import math
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maskformer.errors import InputError
from parity.claims import claim

if TYPE_CHECKING:
    from maskformer.zoo import Entry
    from tf_impl.lowering import Program
    from tf_impl.preflight import Compiled

SCHEMA = "preflight/1"
PRECISIONS = {"bf16": "mixed_bfloat16", "float32": "float32"}
CORES_PER_CHIP = {"v2": 2, "v3": 2}
LARGEST_BATCH = 512
STATE_ARRAYS = 16  # [columns, problems] arrays that one step of the assignment reads or writes


@dataclass(frozen=True)
class Request:
    """What is to be compiled: one entry of the zoo, one batch shape, some topologies."""

    entry: "Entry"
    topologies: tuple[str, ...]
    size: tuple[int, int]
    per_core_batch: int = 1
    precision: str = "bf16"
    replicas: int = 1
    targets: int = 100
    find_batch: bool = False
    evaluation: bool = True
    effort: float = 0.0
    command: str = "parity preflight"


class Programs:
    """The programs of a request by per-core batch; each is traced and lowered once."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self._model: Any = None
        self._train: dict[int, Program] = {}

    @property
    def model(self) -> Any:
        """The model in the precision that was asked for."""
        if self._model is None:
            import tf_impl

            self._model = tf_impl.build(
                self.request.entry.model, PRECISIONS[self.request.precision]
            )
        return self._model

    def train(self, batch: int) -> "Program":
        """The training step of `batch` images per replica."""
        if batch not in self._train:
            from tf_impl.lowering import lower_train_step
            from tf_impl.optimizer import build_optimizer

            optimizer = build_optimizer(self.model, self.request.entry.solver, "float32")
            self._train[batch] = lower_train_step(
                self.model, optimizer, self._shapes(batch), self.request.replicas
            )
        return self._train[batch]

    def evaluation(self, batch: int) -> "Program":
        """The forward pass of `batch` images."""
        from tf_impl.lowering import lower_forward

        return lower_forward(self.model, self._shapes(batch))

    def _shapes(self, batch: int) -> Any:
        from tf_impl.lowering import Shapes

        return Shapes(batch, *self.request.size, self.request.targets)


def preflight(
    request: Request,
    note: Callable[[str], None] = lambda text: None,
    programs: Programs | None = None,
) -> dict[str, Any]:
    """What the TPU's compiler says of the request, one result per topology (`SCHEMA`).

    `note` receives a line for each step of the work; `programs` may be those of a request that
    differs in topologies and batch alone. Raises InputError where a topology has no
    such kind, or the compiler is not installed. A step that cannot be lowered at all is a result.
    """
    from tf_impl.lowering import NotCompilableError
    from tf_impl.preflight import chip_of

    for topology in request.topologies:
        chip_of(topology)
    programs = programs or Programs(request)
    rows = []
    for topology in request.topologies:
        try:
            rows.append(_row(request, programs, topology, note))
        except NotCompilableError as error:
            rows.append({"topology": topology, "passed": False, "reason": str(error)})
    claims = [one for row in rows for one in _claims(row, request.command)]
    return {
        "schema": SCHEMA,
        "claims": claims,
        "command": request.command,
        "config": request.entry.name,
        "precision": request.precision,
        "image_size": list(request.size),
        "per_core_batch": request.per_core_batch,
        "replicas": request.replicas,
        "targets": request.targets,
        "effort": request.effort,
        "topologies": rows,
        "passed": all(one["verdict"] == "holds" for one in claims),
    }


def _claims(row: dict[str, Any], command: str) -> list[dict[str, Any]]:
    """That every step compiles for the row's topology, and what it takes of the memory there."""
    topology = row["topology"]
    steps = {name: row[name] for name in ("train", "evaluation") if name in row}
    refused = [f"{name}: {one['reason']}" for name, one in steps.items() if not one["compiles"]]
    if "reason" in row:
        refused.append(row["reason"])
    shares = {name: one["hbm_share"] for name, one in steps.items() if one["compiles"]}
    claims = [
        claim(
            f"compiles/{topology}",
            f"Every step compiles for {topology}",
            {"rule": "none", "of": max(1, len(steps)), "found": refused},
            "steps that the TPU's own compiler refuses",
            command,
        )
    ]
    if shares:
        claims.append(
            claim(
                f"memory/{topology}",
                f"Every step fits into the memory of a core of {topology}",
                {"rule": "largest", "values": shares, "limit": 1},
                "largest share of the core's memory that a step takes, by the compiler's account",
                command,
            )
        )
    return claims


def _row(
    request: Request, programs: Programs, topology: str, note: Callable[[str], None]
) -> dict[str, Any]:
    from tf_impl.preflight import chip_of, compile_for

    def compiled(program: "Program", title: str) -> "Compiled":
        note(f"{topology}: compiling {title}")
        return compile_for(program, topology, request.effort)

    def train(batch: int) -> "Compiled":
        note(f"{topology}: lowering the training step, {batch} images per core")
        return compiled(programs.train(batch), f"the training step, {batch} images per core")

    step = train(request.per_core_batch)
    chip = chip_of(topology)
    row: dict[str, Any] = {
        "topology": topology,
        "passed": step.compiles,
        "chip": asdict(chip),
        "train": described(step),
    }
    if step.compiles:
        row["matcher"] = matcher_bound(request, chip.bandwidth)
        row["schedule"] = schedule(request, topology, step.roofline_seconds)
    if request.evaluation:
        forward = compiled(programs.evaluation(request.per_core_batch), "the evaluation step")
        row["evaluation"] = described(forward)
        row["passed"] = row["passed"] and forward.compiles
    if request.find_batch:
        row["largest_per_core_batch"] = largest_batch(
            lambda batch: step if batch == request.per_core_batch else train(batch)
        )
    return row


def described(found: "Compiled") -> dict[str, Any]:
    """A compilation as JSON; memory in bytes."""
    if not found.compiles:
        return {"compiles": False, "kind": found.kind, "reason": found.reason}
    return {
        "compiles": True,
        "compile_seconds": found.seconds,
        "memory": found.memory,
        "hbm_used": found.hbm_used,
        "hbm_share": found.hbm_used / found.chip.hbm,
        "flops": found.flops,
        "bytes_accessed": found.bytes_accessed,
        "roofline_seconds": found.roofline_seconds,
    }


def matcher_bound(request: Request, bandwidth: float) -> dict[str, Any]:
    """The most that the assignment's loops can add: the compiler counts their bodies once.

    With R real targets a row is scanned at most R times and its path has at most R hops
    (`tf_impl.linear_sum_assignment`); the time is that of reading and writing its state.
    """
    from tf_impl.linear_sum_assignment import BIDS_PER_ROW

    config = request.entry.model
    if config.is_per_pixel:
        return {"most_steps": 0, "seconds": 0.0}
    queries = config.predictor.num_queries
    layers = config.predictor.dec_layers if config.predictor.deep_supervision else 1
    rows, columns = sorted((request.targets, queries))
    steps = BIDS_PER_ROW * rows + rows * (2 * rows + 1)
    state = STATE_ARRAYS * 4 * columns * layers * request.per_core_batch
    return {"most_steps": steps, "seconds": steps * state / bandwidth}


def schedule(request: Request, topology: str, seconds: float) -> dict[str, Any]:
    """An estimate from below of the published schedule: its images at the roofline's pace."""
    solver = request.entry.solver
    images = solver.max_iter * solver.ims_per_batch
    steps = math.ceil(images / (request.per_core_batch * request.replicas))
    cores = CORES_PER_CHIP.get(topology.partition(":")[0], 1)
    hours = steps * seconds / 3600
    return {
        "estimate": "from below: every step at the roofline, data never late",
        "images": images,
        "steps": steps,
        "hours": hours,
        "chip_hours": hours * math.ceil(request.replicas / cores),
    }


def largest_batch(compiled: "Callable[[int], Compiled]") -> int:
    """The largest number of images per core whose step fits, 0 where not even one does.

    Memory grows by about the same for each image: two compilations give a guess, which is then
    confirmed by one batch that fits and one that does not.
    """
    one = compiled(1)
    if not one.compiles:
        return 0
    two = compiled(2)
    if not two.compiles:
        return 1
    per_image = max(two.hbm_used - one.hbm_used, 1)
    guess = 1 + int((one.chip.hbm - one.hbm_used) // per_image)
    guess = min(max(guess, 2), LARGEST_BATCH)
    fits, fails = 2, LARGEST_BATCH + 1
    while fails - fits > 1:
        guess = min(max(guess, fits + 1), fails - 1)
        if compiled(guess).compiles:
            fits, guess = guess, guess + 1
        else:
            fails, guess = guess, guess - 1
    return fits


def register(app: typer.Typer) -> None:
    """Adds `parity preflight` to `app`."""
    app.command("preflight")(command)


def command(
    config: Annotated[str | None, typer.Option(help="Name of a zoo configuration.")] = None,
    experiment: Annotated[
        str | None, typer.Option(help="Name of a registered experiment, in place of --config.")
    ] = None,
    topology: Annotated[
        list[str] | None, typer.Option(help="Chips, such as v5e:2x2; may be repeated.")
    ] = None,
    image_size: Annotated[str, typer.Option(help="HxW of the padded images.")] = "640x640",
    per_core_batch: Annotated[int, typer.Option(help="Images per core.", min=1)] = 1,
    precision: Annotated[str, typer.Option(help="bf16 or float32.")] = "bf16",
    replicas: Annotated[int, typer.Option(help="Cores that share a step.", min=1)] = 1,
    targets: Annotated[int, typer.Option(help="Targets an image is padded to.", min=1)] = 100,
    find_batch: Annotated[
        bool, typer.Option("--find-batch", help="Find the largest per-core batch that fits.")
    ] = False,
    no_evaluation: Annotated[
        bool, typer.Option("--no-evaluation", help="Leave out the evaluation step.")
    ] = False,
    effort: Annotated[
        float, typer.Option(help="Of the compiler: -1 fastest, 0 as in training, to 1.")
    ] = 0.0,
    published: Annotated[
        bool,
        typer.Option(
            "--published", help="The published targets on four chips of each kind, as one table."
        ),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder of that table's results, taken up again.")
    ] = None,
    price: Annotated[
        list[str] | None,
        typer.Option(help="USD per chip-hour in that table, such as v5e=1.2.", metavar="KIND=USD"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compile the real training step with the real TPU compiler, without a TPU.

    With --published: ADE20K's and COCO's R50 in both precisions on v3, v4, v5e and v6e; each
    compilation takes minutes, and what --out already holds is not compiled again.

    Exit status 0: every step compiles and fits; 1: one does not.

    Example: parity preflight --config coco_r50 --topology v5e:2x2 --image-size 640x640 --replicas 4
    """
    if published:
        raise typer.Exit(0 if _published(out, price or [], find_batch, effort, as_json) else 1)
    if out is not None or price:
        raise InputError("--out and --price need --published", "a single request prints its result")
    from maskformer.images import parse_size

    if precision not in PRECISIONS:
        raise InputError(
            f"--precision is {precision!r}", f"known: {', '.join(PRECISIONS)}", "Choose one."
        )
    request = Request(
        entry=_entry(config, experiment),
        topologies=tuple(topology or ["v5e:2x2"]),
        size=parse_size(image_size),
        per_core_batch=per_core_batch,
        precision=precision,
        replicas=replicas,
        targets=targets,
        find_batch=find_batch,
        evaluation=not no_evaluation,
        effort=effort,
        command=shlex.join(["parity", *sys.argv[1:]]),
    )
    result = preflight(request, lambda text: print(text, file=sys.stderr, flush=True))
    if as_json:
        print(json.dumps(result))
    else:
        _show(result)
    if not result["passed"]:
        raise typer.Exit(1)


def _published(
    out: Path | None, price: list[str], find_batch: bool, effort: float, as_json: bool
) -> bool:
    """Fills and prints the table; whether every step compiles and fits."""
    from replication import preflight_table

    if out is None:
        raise InputError(
            "--published needs --out",
            "its compilations take an hour or more, and are kept there",
            "For example: --out runs/preflight",
        )
    prices = preflight_table.price_changes(price)
    results = preflight_table.fill(
        out, find_batch, effort, lambda text: print(text, file=sys.stderr, flush=True)
    )
    if as_json:
        print(json.dumps({"prices": prices, "results": results}))
    else:
        print(preflight_table.markdown(results, prices), end="")
    return all(result["passed"] for result in results)


def _entry(config: str | None, experiment: str | None) -> "Entry":
    from maskformer import zoo

    if (config is None) == (experiment is None):
        raise InputError(
            "preflight takes one of --config and --experiment",
            "both were given" if config else "neither was given",
            "For example: --config coco_r50",
        )
    if config is not None:
        return zoo.get(config)
    from tf_impl.experiments import experiment_name

    names = {experiment_name(name): name for name in zoo.names()}
    if experiment not in names:
        raise InputError(
            f"no experiment {experiment!r}",
            f"known: {', '.join(names)}",
            "Name one of them.",
        )
    return zoo.get(names[experiment])


def _show(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    height, width = result["image_size"]
    title = (
        f"{result['config']}, {height}x{width}, {result['per_core_batch']} per core, "
        f"{result['replicas']} cores, {result['precision']}"
    )
    table = Table(title=title)
    for column in ("topology", "step", "compiles", "HBM (GiB)", "of chip", "TFLOP", "roofline ms"):
        table.add_column(column, justify="left" if column in ("topology", "step") else "right")
    table.add_column("compile s", justify="right")
    console = Console()
    notes: list[str] = []
    for row in result["topologies"]:
        for name in ("train", "evaluation"):
            if name in row:
                table.add_row(row["topology"], name, *_cells(row[name]))
        notes += _notes(row)
    console.print(table)
    for note in notes:
        console.print(note)


def _cells(step: dict[str, Any]) -> Sequence[str]:
    if not step["compiles"]:
        return ("no",)
    return (
        "yes",
        f"{step['hbm_used'] / 2**30:.2f}",
        f"{step['hbm_share']:.0%}",
        f"{step['flops'] / 1e12:.3f}",
        f"{1e3 * step['roofline_seconds']:.1f}",
        f"{step['compile_seconds']:.0f}",
    )


def _notes(row: dict[str, Any]) -> list[str]:
    name = row["topology"]
    found = [f"{name}: {row['reason']}"] if "reason" in row else []
    found += [
        f"{name}, {step}: {row[step]['reason']}"
        for step in ("train", "evaluation")
        if step in row and not row[step]["compiles"]
    ]
    if "schedule" in row:
        plan = row["schedule"]
        found.append(
            f"{name}: published schedule, estimate {plan['estimate']}: {plan['hours']:.1f} h, "
            f"{plan['chip_hours']:.1f} chip-hours; matching adds at most "
            f"{1e3 * row['matcher']['seconds']:.1f} ms a step"
        )
    if "largest_per_core_batch" in row:
        found.append(f"{name}: largest per-core batch that fits: {row['largest_per_core_batch']}")
    return found
