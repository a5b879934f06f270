"""`parity preflight`: would a training run work on a TPU, and what would it cost, without one."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from parity.errors import InputError
from replication.commands import options

if TYPE_CHECKING:
    from maskformer.model.zoo import Entry
    from replication.tpu import execution
    from reports.chapters.execution import ExecutionResult
    from reports.chapters.preflight import Compilation, PreflightResult, Topology

EXECUTED_SIZE = "64x96"


def register(app: typer.Typer) -> None:
    """Adds `parity preflight` to `app`."""
    app.command("preflight")(command)


def command(
    context: typer.Context,
    config: options.Config = None,
    config_file: options.ConfigFile = None,
    classes: options.Classes = None,
    settings: options.Settings = None,
    experiment: Annotated[
        str | None, typer.Option(help="Name of a registered experiment, in place of --config.")
    ] = None,
    topology: Annotated[
        list[str] | None, typer.Option(help="Chips, such as v5e:2x2; may be repeated.")
    ] = None,
    image_size: Annotated[
        str | None,
        typer.Option(
            help="HxW of the padded images.", show_default=f"640x640; executed, {EXECUTED_SIZE}"
        ),
    ] = None,
    per_core_batch: Annotated[int, typer.Option(help="Images per core.", min=1)] = 1,
    precision: Annotated[
        str | None, typer.Option(help="bf16 or float32.", show_default="bf16; executed, float32")
    ] = None,
    replicas: Annotated[int, typer.Option(help="Cores that share a step.", min=1)] = 1,
    targets: Annotated[int, typer.Option(help="Targets an image is padded to.", min=1)] = 100,
    micro_batches: Annotated[
        int,
        typer.Option(
            help="Parts of a core's images; 0: the fewest that fit, not with --execute.", min=0
        ),
    ] = 1,
    find_batch: Annotated[
        bool, typer.Option("--find-batch", help="Find the largest per-core batch that fits.")
    ] = False,
    no_evaluation: Annotated[
        bool, typer.Option("--no-evaluation", help="Leave out the evaluation step.")
    ] = False,
    effort: Annotated[
        float, typer.Option(help="Of the compiler: -1 fastest, 0 as in training, to 1.")
    ] = 0.0,
    execute: Annotated[
        bool,
        typer.Option(
            "--execute",
            help="Run the replicas' program on virtual processors, and judge its updates.",
        ),
    ] = False,
    steps: Annotated[int, typer.Option(help="Updates to execute.", min=1)] = 5,
    plant: Annotated[
        bool,
        typer.Option(
            "--plant", help="Make mistakes in the executed reduction, too, which must be noticed."
        ),
    ] = False,
    products: Annotated[
        list[int] | None,
        typer.Option(
            help="1, 3 or 6: execute it, too, with products of float32 in so many passes of "
            "bfloat16, as a TPU makes them; may be repeated."
        ),
    ] = None,
    published: Annotated[
        bool,
        typer.Option(
            "--published", help="The published targets on four chips of each kind, as one table."
        ),
    ] = False,
    out: options.FileOrFolder = None,
    price: Annotated[
        list[str] | None,
        typer.Option(help="USD per chip-hour in that table, such as v5e=1.2.", metavar="KIND=USD"),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Compile the real training step with the real TPU compiler, without a TPU.

    With --published: ADE20K's and COCO's R50 in both precisions and COCO's Swin-L in bf16, with the
    published batch, on v3, v4, v5e, v5p and v6e; each compilation takes minutes on one core, and
    what --out already holds is not compiled again. The same command may run several times at once:
    they share the rows.

    With --execute, the program of --replicas replicas, all-reduces included, is not compiled for a
    TPU but executed on as many virtual processors, without dropout, and held to one TensorFlow
    process of the same global batch, and to as many PyTorch processes.

    Exit status: 0 every step compiles and fits, 1 one does not, 2 wrong usage or input.

    Example: parity preflight --config coco_r50 --topology v5e:2x2 --image-size 640x640 --replicas 4
    """
    _check_options(options.given(context), published, execute)
    if published:
        _published(out, price or [], find_batch, effort, as_json)
    options.check_folder(out)
    from maskformer.data.images import size_for
    from replication.tpu.limits import check_compilation
    from replication.tpu.preflight import PRECISIONS, Request, preflight

    precision = precision or ("float32" if execute else "bf16")
    options.one_of("--precision", precision, PRECISIONS)
    if execute and not micro_batches:
        raise InputError(
            "--micro-batches is 0",
            "with --execute nothing is compiled for a chip, whose memory would say what fits",
            "give a divisor of --per-core-batch",
        )
    entry = options.with_classes(
        _entry(config, config_file, options.overrides(settings), experiment), classes, None
    )
    size = size_for(
        entry.model, image_size or (EXECUTED_SIZE if execute else "640x640"), "--image-size"
    )
    if micro_batches and per_core_batch % micro_batches:
        raise InputError(
            f"--micro-batches is {micro_batches}",
            f"a core has {per_core_batch} images",
            "Choose a divisor of --per-core-batch, or 0 for the fewest that fit.",
        )
    if execute:
        from replication.tpu import execution

        asked = execution.Request(
            entry=entry,
            size=size,
            replicas=replicas,
            per_replica=per_core_batch,
            precision=precision,
            steps=steps,
            targets=targets,
            parts=micro_batches,
            plant=plant,
            products=tuple(products or ()),
            command=options.command_line(),
        )
        _execute(asked, out, as_json)
    request = Request(
        entry=entry,
        topologies=tuple(topology or ["v5e:2x2"]),
        size=size,
        per_core_batch=per_core_batch,
        precision=precision,
        replicas=replicas,
        targets=targets,
        micro_batches=micro_batches or None,
        find_batch=find_batch,
        evaluation=not no_evaluation,
        effort=effort,
        command=options.command_line(),
    )
    check_compilation(request)
    result = preflight(request, options.say)
    options.keep(result, out, "preflight.json")
    options.end(result, as_json, lambda: _show(result), result.passed)


_OF_TABLE = {"--published", "--find-batch", "--effort", "--price", "--out", "--json"}
_OF_COMPILATION = {"--topology", "--find-batch", "--no-evaluation", "--effort"}
_OF_OTHERS = {
    "--steps": "--steps needs --execute",
    "--plant": "--plant needs --execute",
    "--products": "--products needs --execute",
    "--price": "prices need --published",
}


def _check_options(given: list[str], published: bool, execute: bool) -> None:
    """Raises InputError that names all options which were given in vain."""
    if published:
        options.alone(
            "--published",
            [name for name in given if name not in _OF_TABLE],
            "its configurations, images, batches and chips are the published ones",
            "give --find-batch, --effort, --price, --out or --json only",
        )
    elif execute:
        options.alone(
            "--execute",
            [name for name in given if name in {"--price", *_OF_COMPILATION}],
            "nothing is compiled for a chip",
            "leave them out",
        )
    else:
        options.alone(
            "compiling for a chip",
            [name for name in given if name in _OF_OTHERS],
            ", ".join(_OF_OTHERS[name] for name in given if name in _OF_OTHERS),
            "leave them out, or add what they need",
        )
    if "--experiment" in given:
        options.alone(
            "--experiment",
            [name for name in given if name == "--set"],
            "it is a configuration of the zoo as it is",
            "give --config-file FILE with --set",
        )


def _execute(request: "execution.Request", out: Path | None, as_json: bool) -> NoReturn:
    """Executes the program, and ends the verb; 0 where every claim holds."""
    from replication.tpu.execution import executed_step
    from replication.tpu.limits import check_execution

    check_execution(request)
    result = executed_step(request, options.say)
    options.keep(result, out, "execution.json")
    options.end(result, as_json, lambda: _told(result), result.verdict == "holds")


def _told(result: "ExecutionResult") -> str:
    """The result in a few lines that a person reads on a terminal."""
    lines = [f"{one.verdict}: {one.title}" for one in result.claims]
    for claim in result.failing:
        lines.append(f"  {claim.id}: {claim.value:.3g}, limit {claim.limit:.3g}")
        lines += [f"  likely: {cause}" for cause in claim.causes]
    for wrong in result.wrong_reductions:
        lines.append(f"planted, {wrong.what}: {wrong.cause or 'not named'}")
    for one in result.rounded_products:
        made = f"products in {one.passes} of bfloat16" if one.passes else "products as they are"
        lines.append(
            f"{made}: loss {one.losses[0]:.2g}, gradients {one.gradients:.2g}, weights after "
            f"{result.steps} updates {one.weights:.2g} from float64"
        )
    return "\n".join([*lines, f"verdict: {result.verdict}"])


def _published(
    out: Path | None, price: list[str], find_batch: bool, effort: float, as_json: bool
) -> NoReturn:
    """Fills and prints the table, and ends the verb; 0 where every step compiles and fits."""
    from replication.tpu import published as preflight_table
    from replication.tpu.limits import check_effort

    if out is None:
        raise InputError(
            "--published needs --out",
            "its compilations take hours, and are kept there",
            "For example: --out runs/preflight",
        )
    check_effort(effort)
    prices = preflight_table.price_changes(price)
    results = preflight_table.fill(out, find_batch, effort, options.say)
    options.end(
        {"prices": prices, "results": results},
        as_json,
        lambda: preflight_table.markdown(results, prices).removesuffix("\n"),
        all(result.passed for result in results),
        name="preflight-table",
    )


def _entry(
    config: str | None, config_file: Path | None, overrides: list[str], experiment: str | None
) -> "Entry":
    from maskformer.model import zoo

    named = config is not None or config_file is not None
    if named == (experiment is not None):
        raise InputError(
            "preflight takes one of --config and --experiment, or --config-file",
            "two were given" if named else "none was given",
            "For example: --config coco_r50",
        )
    if experiment is None:
        return options.resolved(config, config_file, overrides)
    from tf_impl.model_garden.experiments import experiment_name

    names = {experiment_name(name): name for name in zoo.names()}
    if experiment not in names:
        raise InputError(
            f"no experiment {experiment!r}",
            f"known: {', '.join(names)}",
            "Name one of them.",
        )
    return zoo.get(names[experiment])


def _show(result: "PreflightResult") -> None:
    from rich.console import Console
    from rich.table import Table

    height, width = result.image_size
    title = (
        f"{result.config}, {height}x{width}, {result.per_core_batch} per core, "
        f"{result.replicas} cores, {result.precision}"
    )
    table = Table(title=title)
    for column in ("topology", "step", "compiles", "HBM (GiB)", "of chip", "TFLOP", "roofline ms"):
        table.add_column(column, justify="left" if column in ("topology", "step") else "right")
    table.add_column("compile s", justify="right")
    console = Console(markup=False)
    notes: list[str] = []
    for row in result.topologies:
        for name, step in row.steps.items():
            table.add_row(row.topology, name, *_cells(step))
        notes += _notes(row)
    console.print(table)
    for note in notes:
        console.print(note)


def _cells(step: "Compilation") -> Sequence[str]:
    if not step.compiles:
        return (step.fits,)
    return (
        "yes",
        f"{step.hbm_used / 2**30:.2f}",
        f"{step.hbm_share:.0%}",
        f"{step.flops / 1e12:.3f}",
        f"{1e3 * step.roofline_seconds:.1f}",
        f"{step.compile_seconds:.0f}",
    )


def _notes(row: "Topology") -> list[str]:
    name, plan = row.topology, row.schedule
    found = [f"{name}, {step}: {text}" for step, text in row.reasons.items()]
    if row.of_parts:
        found.append(f"{name}: {row.of_parts}")
    if row.fewer_parts:
        found.append(f"{name}: fewer parts are not judged: {row.fewer_parts}")
    if plan is not None:
        found.append(
            f"{name}: published schedule, estimate {plan.estimate}: {plan.hours:.1f} h, "
            f"{plan.chip_hours:.1f} chip-hours; matching adds at most "
            f"{1e3 * row.matcher.seconds:.1f} ms a step"
        )
    if row.largest_per_core_batch is not None:
        found.append(f"{name}: largest per-core batch that fits: {row.largest_batch}")
    if row.larger_batches:
        found.append(f"{name}: larger ones are not judged: {row.larger_batches}")
    return found
